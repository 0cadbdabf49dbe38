// SPDX-License-Identifier: Apache-2.0
// A checkpoint's files: shards, each under its name as soon as it is whole, index, configuration and the
// rest.
#include <algorithm>
#include <filesystem>
#include <fstream>
#include <future>
#include <iterator>
#include <mutex>
#include <set>
#include <system_error>

#include "base/counted.h"
#include "base/fail.h"
#include "base/mapped_file.h"
#include "base/output_place.h"
#include "base/stopwatch.h"
#include "checkpoint/safetensors_header.h"
#include "convert/output.h"
#include "convert/partial_folder.h"

namespace nfloat {
namespace {

namespace fs = std::filesystem;

constexpr const char* kCardName = "README.md";
constexpr const char* kIndexName = "model.safetensors.index.json";

struct Shard {
  std::vector<size_t> units;
  std::string name;
  std::unique_ptr<SafetensorsWriter> writer;
  uint64_t data_bytes = 0;
  size_t left = 0;        // units that are not done
  bool finished = false;  // whole, and in a folder under its name
};

// Units in order, a new shard when the next one would make it too large.
std::vector<Shard> split_into_shards(const std::vector<OutputUnit>& units, uint64_t shard_bytes,
                                     bool folder) {
  std::vector<Shard> shards(1);
  uint64_t bytes = 0;
  for (size_t i = 0; i < units.size(); ++i) {
    if (folder && !shards.back().units.empty() && bytes + units[i].bytes > shard_bytes) {
      shards.emplace_back();
      bytes = 0;
    }
    shards.back().units.push_back(i);
    bytes += units[i].bytes;
  }
  for (size_t i = 0; i < shards.size(); ++i) {
    shards[i].left = shards[i].units.size();
    shards[i].name = shards.size() == 1
                         ? "model.safetensors"
                         : fmt::format("model-{:05}-of-{:05}.safetensors", i + 1, shards.size());
  }
  return shards;
}

std::string index_text(const std::vector<Shard>& shards, const std::vector<OutputUnit>& units) {
  Json index;
  uint64_t total = 0;
  std::map<std::string, std::string> map;
  for (const Shard& shard : shards) {
    total += shard.data_bytes;
    for (size_t unit : shard.units) {
      for (const auto& tensor : units[unit].tensors) map[tensor.name] = shard.name;
      if (!units[unit].late.empty()) map[units[unit].late] = shard.name;
    }
  }
  index["metadata"]["total_size"] = total;
  index["weight_map"] = map;
  return index.dump(2) + "\n";
}

void copy_following_links(const fs::path& from, const fs::path& to) {
  constexpr size_t kPiece = size_t{1} << 20;
  const MappedFile file(from.string());
  AtomicFile copy(to.string());
  for (std::span<const std::byte> rest = file.bytes(); !rest.empty();) {
    const auto piece = rest.first(std::min(kPiece, rest.size()));
    copy.append(piece);
    file.release(piece);
    rest = rest.subspan(piece.size());
  }
  copy.commit();
}

// Behind what the original's card says.
void add_to_card(const fs::path& path, const std::string& card) {
  std::string text;
  if (fs::exists(path)) {
    std::ifstream file(path, std::ios::binary);
    text.assign(std::istreambuf_iterator<char>(file), {});
    if (!file.good() && !file.eof()) fail(ErrorCode::kIo, "{}: cannot read", path.string());
    if (!text.ends_with('\n')) text += '\n';
    text += '\n';
    fs::remove(path);
  }
  write_file_atomically(path.string(), text + card);
}

// Bytes behind the header of the file that an earlier run left for this shard; 0 where it is not the file
// that this run would write, as far as its header tells; of the rest its checksum does.
uint64_t finished_bytes(const fs::path& path, const Shard& shard, const std::vector<OutputUnit>& units) {
  std::error_code error;
  if (!fs::is_regular_file(fs::symlink_status(path, error))) return 0;
  const uint64_t size = fs::file_size(path, error);
  std::ifstream file(path, std::ios::binary);
  std::string head(8, '\0');
  if (error || !file.read(head.data(), 8)) return 0;
  try {
    const uint64_t length = safetensors_header_bytes(head, size, path.string());
    head.resize(8 + length);
    if (!file.read(head.data() + 8, static_cast<std::streamsize>(length))) return 0;
    const SafetensorsHeader header = parse_safetensors_header(head, size, path.string());
    std::map<std::string, const TensorInfo*> there;
    for (const TensorInfo& tensor : header.tensors) there[tensor.name] = &tensor;
    size_t expected = 0;
    for (const size_t unit : shard.units) {
      for (const auto& tensor : units[unit].tensors) {
        const auto found = there.find(tensor.name);
        if (found == there.end() || found->second->dtype != tensor.dtype ||
            found->second->shape != tensor.shape)
          return 0;
        ++expected;
      }
      if (units[unit].late.empty()) continue;
      if (!there.contains(units[unit].late)) return 0;
      ++expected;
    }
    return expected == there.size() ? size - 8 - length : 0;
  } catch (const Error&) {
    return 0;
  }
}

class CheckpointWriting {
 public:
  CheckpointWriting(const Checkpoint& input, const std::string& output, const std::vector<OutputUnit>& units,
                    const JobMaker& make_job, const std::function<void(size_t)>& on_finished,
                    uint64_t shard_bytes, const ConvertControl& control, ConvertResult& result)
      : input_(input),
        output_(output),
        units_(units),
        make_job_(make_job),
        on_finished_(on_finished),
        control_(control),
        result_(result),
        kind_(input.is_folder() ? OutputKind::kFolder : OutputKind::kSafetensors),
        shards_(split_into_shards(units, shard_bytes, input.is_folder())) {}
  CheckpointWriting(const CheckpointWriting&) = delete;
  CheckpointWriting& operator=(const CheckpointWriting&) = delete;

  void run(const ConversionKey& key, const Json& config, const std::string& card) {
    open(key);
    try {
      if (partial_) take_finished();
      write_shards();
      result_.shards = shards_.size();
      if (control_.parts > 0) return;
      if (in_folder()) write_others(config, card);
      commit();
    } catch (const Error& error) {
      closing_.clear();  // waits
      if (!partial_ || committing_) throw;
      const size_t finished = finished_shards();
      const bool useful = error.code() == ErrorCode::kIo || error.code() == ErrorCode::kInterrupted ||
                          error.code() == ErrorCode::kOutOfMemory;
      if (!useful && !control_.finish) partial_->give_up();
      if (!useful || finished == 0) throw;
      fail(error.code(), "{}; {} keeps {} of {}, with which the same command goes on",
           error.code() == ErrorCode::kInterrupted ? "interrupted" : error.what(),
           PartialFolder::path_of(target_.string()), finished, counted(shards_.size(), "shard"));
    }
    result_.whole = true;
  }

 private:
  bool in_folder() const noexcept { return kind_ == OutputKind::kFolder; }
  fs::path path_of(const Shard& shard) const {
    return in_folder() ? fs::path(partial_ ? partial_->files() : folder_->path()) / shard.name : target_;
  }
  size_t finished_shards() const {
    return static_cast<size_t>(
        std::count_if(shards_.begin(), shards_.end(), [](const Shard& shard) { return shard.finished; }));
  }
  bool is_mine(size_t shard) const noexcept {
    return control_.parts == 0 || static_cast<int64_t>(shard) % control_.parts == control_.part;
  }

  void open(const ConversionKey& key) {
    const bool resumable = in_folder() && !key.empty();
    if (!resumable && (control_.parts > 0 || control_.finish))
      fail(ErrorCode::kUnsupported,
           "{}: is not made in parts: that goes for a folder of several files, without calibration", output_);
    if (control_.parts > 0 && (control_.part < 0 || control_.part >= control_.parts))
      fail(ErrorCode::kInvalidArgument, "part {} of {}: there is none", control_.part + 1, control_.parts);
    uint64_t needed = 1 << 16;
    for (size_t s = 0; s < shards_.size(); ++s)
      if (is_mine(s))
        for (const size_t unit : shards_[s].units) needed += units_[unit].bytes;
    if (in_folder() && control_.parts == 0) needed += other_bytes();
    if (resumable && !control_.fresh) {
      std::error_code ignored;
      const fs::path earlier = fs::path(PartialFolder::path_of(output_target(output_))) / "model";
      for (size_t s = 0; s < shards_.size(); ++s) {
        const uint64_t there = is_mine(s) ? fs::file_size(earlier / shards_[s].name, ignored) : 0;
        if (!ignored) needed -= std::min(needed, there);
      }
    }
    target_ = check_output(input_, output_, kind_, control_.overwrite, needed);
    if (resumable)  // shards, of which some may be made or removed
      expect_checkpoint_apart(PartialFolder::path_of(target_.string()), read_of(input_));
    remove_stale_temporaries(target_.string());
    if (resumable)
      partial_ = std::make_unique<PartialFolder>(input_, target_.string(), key, control_, output_files());
    else if (in_folder())
      folder_ = std::make_unique<AtomicFolder>(target_.string());
  }

  // Of the files that go along.
  uint64_t other_bytes() const {
    uint64_t bytes = 0;
    for (const std::string& name : other_files(input_)) {
      std::error_code error;
      const uint64_t size = input_.is_gguf() ? input_.text_file(name).size()
                                             : fs::file_size(fs::path(input_.path()) / name, error);
      if (!error) bytes += size;
    }
    return bytes;
  }

  std::set<std::string> output_files() const {
    std::set<std::string> names{kIndexName, kConfigName, kCardName};
    for (const Shard& shard : shards_) names.insert(shard.name);
    for (std::string& name : other_files(input_)) names.insert(std::move(name));
    return names;
  }

  void take_finished() {
    for (size_t s = 0; s < shards_.size(); ++s) {
      Shard& shard = shards_[s];
      if (!is_mine(s)) continue;
      shard.data_bytes = finished_bytes(path_of(shard), shard, units_);
      shard.finished = shard.data_bytes > 0 && partial_->is_intact(shard.name, control_.cancelled);
      result_.shards_damaged +=
          !shard.finished && partial_->is_sealed(shard.name) && fs::exists(path_of(shard));
    }
    result_.shards_before = finished_shards();
    if (result_.shards_before > 0) partial_->keep();
    if (!control_.finish || result_.shards_before == shards_.size()) return;
    std::vector<std::string> missing;
    for (const Shard& shard : shards_)
      if (!shard.finished) missing.push_back(shard.name);
    const size_t count = missing.size();
    missing.resize(std::min<size_t>(count, 3));
    fail(ErrorCode::kNotFound,
         "{}: {} of {} are missing or damaged ({}{}): run the parts that make them, or the command "
         "without part "
         "and finish, which makes what is missing",
         PartialFolder::path_of(target_.string()), count, counted(shards_.size(), "shard"),
         fmt::join(missing, ", "), count > missing.size() ? ", ..." : "");
  }

  void write_shards() {
    const Stopwatch watch;
    ConvertProgress progress;
    std::vector<size_t> work;
    shard_of_.resize(units_.size());
    first_.resize(units_.size());
    late_texts_.resize(units_.size());
    for (size_t s = 0; s < shards_.size(); ++s) {
      if (!is_mine(s)) continue;
      for (const size_t unit : shards_[s].units) {
        shard_of_[unit] = s;
        progress.input_bytes_total += units_[unit].input->bytes;
        ++progress.tensors_total;
        if (shards_[s].finished) {
          progress.input_bytes_done += units_[unit].input->bytes;
          ++progress.tensors_done;
          if (on_finished_) on_finished_(unit);
        } else {
          work.push_back(unit);
        }
      }
    }
    if (units_.empty()) {
      open_shard(shards_[0]);
      close_shard(shards_[0]);
    }
    run_stream(
        work.size(),
        [&](size_t i) {
          const size_t unit = work[i];
          Shard& shard = shards_[shard_of_[unit]];
          open_shard(shard);
          return make_job_(unit, *shard.writer, first_[unit],
                           [this, unit](std::string text) { late_texts_[unit] = std::move(text); });
        },
        progress, control_, [&](size_t i) { unit_done(work[i]); });
    result_.seconds = watch.seconds();
    const Stopwatch syncing;
    for (std::future<void>& closing : closing_) closing.get();
    closing_.clear();
    result_.sync_seconds = syncing.seconds();
    for (size_t s = 0; s < shards_.size(); ++s)
      if (is_mine(s))
        result_.files.push_back(in_folder() && control_.parts == 0 ? (target_ / shards_[s].name).string()
                                                                   : path_of(shards_[s]).string());
  }

  void open_shard(Shard& shard) {
    const std::lock_guard lock(mutex_);
    if (shard.writer) return;
    const fs::path path = path_of(shard);
    std::vector<SafetensorsWriter::Declared> declared;
    std::vector<std::string> late;
    for (const size_t unit : shard.units) {
      first_[unit] = declared.size();
      declared.insert(declared.end(), units_[unit].tensors.begin(), units_[unit].tensors.end());
      if (!units_[unit].late.empty()) late.push_back(units_[unit].late);
    }
    shard.writer = std::make_unique<SafetensorsWriter>(path.string(), declared, late);
  }

  // The last unit of a shard sends it to the disk, while others are computed.
  // Shards reach the disk beside the work on the next ones, a few at a time; what fails there ends the work.
  void unit_done(size_t unit) {
    constexpr size_t kMostClosing = 2;
    std::future<void> earlier;
    std::unique_lock lock(mutex_);
    Shard& shard = shards_[shard_of_[unit]];
    if (--shard.left > 0) return;
    if (closing_.size() >= kMostClosing) {
      earlier = std::move(closing_.front());
      closing_.erase(closing_.begin());
    }
    try {
      closing_.push_back(std::async(std::launch::async, [this, &shard] { close_shard(shard); }));
    } catch (const std::system_error&) {  // no thread is to be had
      closing_.push_back(std::async(std::launch::deferred, [this, &shard] { close_shard(shard); }));
    }
    lock.unlock();
    if (earlier.valid()) earlier.get();
  }

  void close_shard(Shard& shard) {
    for (const size_t unit : shard.units)
      if (!units_[unit].late.empty()) shard.writer->write_late(units_[unit].late, late_texts_[unit]);
    shard.writer->finish();
    shard.data_bytes = shard.writer->data_bytes();
    shard.writer->sync();
    if (!in_folder()) return;
    // Takes a fifth of the time of conversion. A shard that is the whole serves no later run.
    if (partial_ && (shards_.size() > 1 || control_.parts > 0))
      partial_->seal(shard.name, shard.writer->temporary_path());
    shard.writer->commit();
    const std::lock_guard lock(mutex_);
    shard.writer.reset();
    shard.finished = true;
    if (partial_) partial_->keep();
  }

  void write_others(const Json& config, const std::string& card) {
    const fs::path inside = path_of(shards_[0]).parent_path();
    if (partial_) partial_->clear_others();
    if (shards_.size() > 1)
      write_file_atomically((inside / kIndexName).string(), index_text(shards_, units_));
    if (!config.empty() || has_config(input_))
      write_file_atomically((inside / kConfigName).string(),
                            config.dump(2, Json::Invalid::kRefuse, Json::NotFinite::kPython) + "\n");
    for (const std::string& name : other_files(input_)) {
      fs::create_directories((inside / name).parent_path());
      if (input_.is_gguf())
        write_file_atomically((inside / name).string(), input_.text_file(name));
      else
        copy_following_links(fs::path(input_.path()) / name, inside / name);
    }
    if (!card.empty()) add_to_card(inside / kCardName, card);
  }

  void commit() {
    if (control_.cancelled && control_.cancelled())
      fail(ErrorCode::kInterrupted, "interrupted; nothing was changed");
    const Existing existing = control_.overwrite ? Existing::kReplace : Existing::kKeep;
    const auto may_be_replaced = [&](const std::string& old) { expect_replaceable(old, kind_, output_); };
    committing_ = true;
    if (partial_) return partial_->commit(existing, may_be_replaced);
    if (folder_) return folder_->commit(existing, may_be_replaced);
    if (control_.overwrite && fs::exists(target_)) may_be_replaced(target_.string());
    shards_[0].writer->commit(existing);
  }

  const Checkpoint& input_;
  const std::string& output_;
  const std::vector<OutputUnit>& units_;
  const JobMaker& make_job_;
  const std::function<void(size_t)>& on_finished_;
  const ConvertControl& control_;
  ConvertResult& result_;
  const OutputKind kind_;
  fs::path target_;
  bool committing_ = false;
  std::unique_ptr<AtomicFolder> folder_;    // of a folder, one of these two
  std::unique_ptr<PartialFolder> partial_;  //
  std::mutex mutex_;                        // of what follows
  std::vector<Shard> shards_;
  std::vector<size_t> shard_of_;            // by unit
  std::vector<size_t> first_;               // by unit: where its tensors begin in its shard
  std::vector<std::string> late_texts_;     // by unit
  std::vector<std::future<void>> closing_;  // last: waits for what uses the others
};

}  // namespace

void write_checkpoint(const Checkpoint& input, const std::string& output,
                      const std::vector<OutputUnit>& units, const JobMaker& make_job, const Json& config,
                      uint64_t shard_bytes, const ConvertControl& control, ConvertResult* result,
                      const std::string& card, const ConversionKey& key,
                      const std::function<void(size_t unit)>& on_finished) {
  expect_own_weights(input);
  CheckpointWriting(input, output, units, make_job, on_finished, shard_bytes, control, *result)
      .run(key, config, card);
}

}  // namespace nfloat
