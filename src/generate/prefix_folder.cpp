// SPDX-License-Identifier: Apache-2.0
#include "generate/prefix_folder.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <system_error>

#include "base/atomic_file.h"
#include "base/checksum.h"
#include "base/fail.h"
#include "base/state_of.h"
#include "checkpoint/fingerprint.h"
#include "generate/stream.h"
#include "model/session_state.h"
#include "model/weights_identity.h"
#include "nfloat/linear.h"
#include "nfloat/targets.h"
#include "nfloat/version.h"

namespace nfloat {
namespace {

namespace fs = std::filesystem;

constexpr int64_t kPage = kernels::kAttentionBlock;
constexpr std::string_view kSuffix = ".prefix";
constexpr size_t kMostWaiting = 2;
constexpr size_t kMostFiles = 4096;
constexpr uint64_t kMostPositions = uint64_t{1} << 27;

// A file is this, the sums of its pages, the tokens, and the pages; all words as this machine has them.
struct Header {
  std::array<char, 16> magic;
  uint64_t identity, positions, page_bytes;
  uint64_t sum;  // of the page sums and the tokens
};
constexpr std::array<char, 16> kMagic = {'n', 'f', 'l', 'o', 'a', 't', ' ', 'p',
                                         'r', 'e', 'f', 'i', 'x', ' ', '1', '\n'};

class File {
 public:
  explicit File(const std::string& path)
      : fd_(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK)) {}
  File(const File&) = delete;
  File& operator=(const File&) = delete;
  ~File() {
    if (fd_ >= 0) ::close(fd_);
  }
  // Of a regular file that can be read; otherwise nothing.
  std::optional<uint64_t> size() const noexcept {
    struct stat about {};
    if (fd_ < 0 || ::fstat(fd_, &about) != 0 || !S_ISREG(about.st_mode)) return std::nullopt;
    return static_cast<uint64_t>(about.st_size);
  }
  bool read(void* to, uint64_t count, uint64_t offset) const noexcept {
    for (uint64_t done = 0; done < count;) {
      const ssize_t got =
          ::pread(fd_, static_cast<char*>(to) + done, count - done, static_cast<off_t>(offset + done));
      if (got < 0 && errno == EINTR) continue;
      if (got <= 0) return false;
      done += static_cast<uint64_t>(got);
    }
    return true;
  }

 private:
  int fd_;
};

uint64_t sum_of(std::span<const std::byte> bytes) noexcept {
  Checksum sum;
  sum.add(bytes);
  return sum.value();
}
// Page sums are whole words, and so are the tokens of whole pages.
uint64_t sum_of(std::span<const uint64_t> pages, std::span<const int32_t> tokens) noexcept {
  Checksum sum;
  sum.add(std::as_bytes(pages));
  sum.add(std::as_bytes(tokens));
  return sum.value();
}

struct Contents {
  std::vector<uint64_t> sums;
  std::vector<int32_t> tokens;
  uint64_t pages_begin = 0;
};
// What a whole file of this identity says is in it; nothing where it is anything else.
std::optional<Contents> contents_of(const File& file, uint64_t identity, uint64_t page_bytes) {
  const std::optional<uint64_t> size = file.size();
  Header header{};
  if (!size || !file.read(&header, sizeof header, 0)) return std::nullopt;
  if (header.magic != kMagic || header.identity != identity || header.page_bytes != page_bytes ||
      header.positions == 0 || header.positions > kMostPositions || header.positions % kPage != 0)
    return std::nullopt;
  const uint64_t pages = header.positions / kPage;
  const uint64_t pages_begin = sizeof header + pages * sizeof(uint64_t) + header.positions * sizeof(int32_t);
  if (*size < pages_begin || (*size - pages_begin) / page_bytes != pages ||
      (*size - pages_begin) % page_bytes != 0)
    return std::nullopt;
  Contents in{std::vector<uint64_t>(pages), std::vector<int32_t>(header.positions), pages_begin};
  if (!file.read(in.sums.data(), in.sums.size() * sizeof(uint64_t), sizeof header) ||
      !file.read(in.tokens.data(), in.tokens.size() * sizeof(int32_t),
                 sizeof header + in.sums.size() * sizeof(uint64_t)) ||
      sum_of(in.sums, in.tokens) != header.sum)
    return std::nullopt;
  return in;
}

// Whether write() gives such names: whatever else is in the folder stays.
bool is_own(std::string_view name) noexcept {
  return name.size() == 32 + kSuffix.size() && name.ends_with(kSuffix) &&
         name.find_first_not_of("0123456789abcdef") == 32;
}

bool begins_with(std::span<const int32_t> tokens, std::span<const int32_t> beginning) noexcept {
  return common_length(tokens, beginning) == static_cast<int64_t>(beginning.size());
}

void make_own_folder(const std::string& path) {
  std::error_code error;
  if (const fs::path parent = fs::path(path).parent_path(); !parent.empty())
    fs::create_directories(parent, error);
  if (::mkdir(path.c_str(), 0700) != 0 && errno != EEXIST)
    fail(ErrorCode::kIo, "{}: cannot make the folder: {}", path, std::strerror(errno));
  struct stat about {};
  if (::stat(path.c_str(), &about) != 0 || !S_ISDIR(about.st_mode))
    fail(ErrorCode::kIo, "{}: not a folder", path);
  if (about.st_uid != ::geteuid() || (about.st_mode & 077) != 0)
    fail(ErrorCode::kIo,
         "{}: kept prefixes hold what was said; the folder has to be this user's alone (chmod 700)", path);
  if (::access(path.c_str(), W_OK | X_OK) != 0) fail(ErrorCode::kIo, "{}: cannot be written", path);
}

uint64_t identity_of(const Session& root, uint64_t page_bytes) {
  const Session::State& session = state_of(root);
  const Model::State& model = state_of(session.model);
  if (model.device != cpu_device())
    fail(ErrorCode::kUnsupported,
         "prefixes can be kept on the disk where one process computes on the CPU alone");
  if (model.beside || model.options.transform || model.options.norms || !model.checkpoint)
    fail(ErrorCode::kUnsupported,
         "prefixes can be kept on the disk of a model as its files have it, without adapters for all "
         "requests");
  const SessionOptions& options = session.options;
  const Precision many = options.many_rows_precision.value_or(*options.precision);
  // The context is part of it: some angles are made for the longest sequence.
  return fnv(fmt::format("{} {} {} {} {} {} {} {}", version(), active_target(),
                         weights_identity(model, files_fingerprint(*model.checkpoint)),
                         precision_name(*options.precision), precision_name(many),
                         static_cast<int>(options.kv_cache), options.context, page_bytes));
}

}  // namespace

PrefixFolder::PrefixFolder(const std::string& path, uint64_t most_bytes, const Session& root)
    : folder_(path),
      most_bytes_(most_bytes),
      page_bytes_(static_cast<uint64_t>(cpu_device()->page_bytes(
          cache_shape(root.model().config(), kernel_type(state_of(root).options.kv_cache))))),
      identity_(identity_of(root, page_bytes_)) {
  if (most_bytes_ <= page_bytes_)
    fail(ErrorCode::kInvalidArgument, "{} bytes for prefixes keep nothing: {} tokens alone take {}",
         most_bytes_, kPage, page_bytes_);
  make_own_folder(folder_);
  read_folder();
  thread_ = std::thread([this] { work(); });
}

PrefixFolder::~PrefixFolder() {
  {
    const std::scoped_lock lock(mutex_);
    ending_ = true;
  }
  changed_.notify_all();
  thread_.join();
}

void PrefixFolder::read_folder() {
  std::error_code ignored;
  for (const auto& file : fs::directory_iterator(folder_, ignored)) {
    const std::string name = file.path().filename().string();
    if (const std::string_view target = target_of_temporary(name); is_own(target))
      remove_stale_temporaries(path_of(std::string(target)));
    if (!is_own(name) || entries_.size() == kMostFiles) continue;
    if (std::optional<Contents> in = contents_of(File(file.path()), identity_, page_bytes_))
      entries_.push_back({name, std::move(in->tokens)});
  }
}

void PrefixFolder::keep(std::span<const int32_t> tokens, const Session& session) {
  const int64_t positions =
      std::min<int64_t>(session.position(), static_cast<int64_t>(tokens.size())) / kPage * kPage;
  if (positions == 0) return;
  const std::span<const int32_t> whole = tokens.first(static_cast<size_t>(positions));
  {
    const std::scoped_lock lock(mutex_);
    if (tasks_.size() >= kMostWaiting) return;
    for (const Task& task : tasks_)
      if (begins_with(task.tokens, whole)) return;
    for (const Entry& entry : entries_)
      if (begins_with(entry.tokens, whole)) return;
  }
  Task task{{whole.begin(), whole.end()}, session.fork()};
  task.session.rewind(positions);
  const std::scoped_lock lock(mutex_);
  tasks_.push_back(std::move(task));
  changed_.notify_all();
}

int64_t PrefixFolder::longest(std::span<const int32_t> tokens) {
  const std::scoped_lock lock(mutex_);
  int64_t most = 0;
  for (const Entry& entry : entries_) most = std::max(most, common_length(entry.tokens, tokens));
  return most / kPage * kPage;
}

std::optional<Session> PrefixFolder::find(std::span<const int32_t> tokens, int64_t beyond,
                                          const Session& root) {
  while (true) {
    const int64_t positions = longest(tokens);
    if (positions <= beyond) return std::nullopt;
    Entry entry;
    {
      const std::scoped_lock lock(mutex_);
      const auto found = std::find_if(entries_.begin(), entries_.end(), [&](const Entry& one) {
        return common_length(one.tokens, tokens) >= positions;
      });
      if (found == entries_.end()) continue;  // a longer one is taking its place
      entry = *found;
    }
    Session session = root.fork();
    if (read(entry, positions, session)) {
      std::error_code ignored;
      fs::last_write_time(path_of(entry.name), fs::file_time_type::clock::now(), ignored);
      return session;
    }
    forget(entry.name);
  }
}

bool PrefixFolder::read(const Entry& entry, int64_t positions, Session& into) const {
  const File file(path_of(entry.name));
  const std::optional<Contents> in = contents_of(file, identity_, page_bytes_);
  if (!in || in->tokens != entry.tokens) return false;
  Session::State& session = state_of(into);
  session.cache.reserve(0, positions);
  for (int64_t page = 0; page < positions / kPage; ++page) {
    std::byte* const to = session.cache.view().pages[page];
    const auto at = static_cast<uint64_t>(page);
    if (!file.read(to, page_bytes_, in->pages_begin + at * page_bytes_)) return false;
    if (sum_of({to, page_bytes_}) != in->sums[at]) return false;
  }
  session.position = positions;
  session.has_logits = false;
  return true;
}

void PrefixFolder::forget(const std::string& name) {
  const std::scoped_lock lock(mutex_);
  entries_.remove_if([&](const Entry& entry) { return entry.name == name; });
}

bool PrefixFolder::finish() {
  std::unique_lock lock(mutex_);
  changed_.wait(lock, [&] { return tasks_.empty(); });
  std::list<Task> written;
  written.swap(written_);
  return !written.empty();
}

void PrefixFolder::work() {
  std::unique_lock lock(mutex_);
  while (true) {
    changed_.wait(lock, [&] { return ending_ || !tasks_.empty(); });
    if (tasks_.empty()) return;
    const Task& task = tasks_.front();
    lock.unlock();
    try {
      write(task);
    } catch (const std::exception&) {
      // A full disk, a folder that has gone: it is not kept.
    }
    lock.lock();
    written_.splice(written_.end(), tasks_, tasks_.begin());
    changed_.notify_all();
  }
}

void PrefixFolder::drop_written() {
  std::list<Task> written;
  const std::scoped_lock lock(mutex_);
  written.swap(written_);
}

void PrefixFolder::write(const Task& task) {
  const std::span<const int32_t> tokens = task.tokens;
  const std::byte* const* pages = state_of(task.session).cache.view().pages;
  std::vector<uint64_t> sums(tokens.size() / kPage);
  const uint64_t bytes =
      sizeof(Header) + sums.size() * sizeof(uint64_t) + tokens.size_bytes() + sums.size() * page_bytes_;
  if (!make_room(bytes)) return;
  for (size_t i = 0; i < sums.size(); ++i) sums[i] = sum_of({pages[i], page_bytes_});
  const Header header{kMagic, identity_, tokens.size(), page_bytes_, sum_of(sums, tokens)};
  Entry entry{fmt::format("{:016x}{:016x}{}", identity_, header.sum, kSuffix), task.tokens};
  AtomicFile file(path_of(entry.name));
  file.append(std::as_bytes(std::span(&header, 1)));
  file.append(std::as_bytes(std::span(sums)));
  file.append(std::as_bytes(tokens));
  for (size_t i = 0; i < sums.size(); ++i) file.append({pages[i], page_bytes_});
  file.commit();
  std::error_code ignored;
  const std::scoped_lock lock(mutex_);
  entries_.remove_if([&](const Entry& other) {
    const bool needless = begins_with(tokens, other.tokens);
    if (needless && other.name != entry.name) fs::remove(path_of(other.name), ignored);
    return needless;
  });
  entries_.push_back(std::move(entry));
}

bool PrefixFolder::make_room(uint64_t bytes) {
  if (bytes > most_bytes_) return false;
  struct Old {
    fs::file_time_type used;
    std::string name;
    uint64_t bytes;
  };
  std::vector<Old> files;
  uint64_t all = 0;
  std::error_code ignored;
  for (const auto& file : fs::directory_iterator(folder_, ignored)) {
    const std::string name = file.path().filename().string();
    std::error_code error;
    if (!is_own(name) || !fs::is_regular_file(file.symlink_status(error))) continue;
    const uint64_t size = file.file_size(error);
    const fs::file_time_type used = file.last_write_time(error);
    if (error) continue;  // another server has removed it
    files.push_back({used, name, size});
    all += size;
  }
  std::sort(files.begin(), files.end(), [](const Old& a, const Old& b) { return a.used < b.used; });
  size_t left = files.size();
  for (const Old& file : files) {
    if (all + bytes <= most_bytes_ && left < kMostFiles) return true;
    fs::remove(path_of(file.name), ignored);
    forget(file.name);
    all -= file.bytes;
    --left;
  }
  return all + bytes <= most_bytes_;
}

}  // namespace nfloat
