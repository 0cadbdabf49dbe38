// SPDX-License-Identifier: Apache-2.0
#include "train_loftq.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/file.h>
#include <unistd.h>

#include <cmath>
#include <filesystem>

#include "model_options.h"
#include "nfloat/bridge.h"
#include "nfloat/checkpoint.h"
#include "nfloat/error.h"
#include "notes.h"
#include "signals.h"

namespace nfloat::cli {
namespace {

namespace fs = std::filesystem;

// A hidden folder beside `output`, for what does not stay. It is locked and has the name of what an output
// leaves when a run is killed, so that the next one that writes `output` removes it.
class Scratch {
 public:
  explicit Scratch(const std::string& output) {
    const fs::path whole = fs::absolute(fs::path(output) / "").parent_path();
    path_ =
        whole.parent_path() / fmt::format(".{}.nfloat-{}-loftq.tmp", whole.filename().string(), ::getpid());
    std::error_code error;
    if (!fs::create_directory(path_, error))
      throw Error(ErrorCode::kIo,
                  fmt::format("{}: cannot be made{}", path_.string(), error ? ": " + error.message() : ""));
    lock_ = ::open(path_.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (lock_ >= 0) ::flock(lock_, LOCK_EX | LOCK_NB);
  }
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;
  ~Scratch() {
    std::error_code ignored;
    fs::remove_all(path_, ignored);
    if (lock_ >= 0) ::close(lock_);
  }
  std::string file(const std::string& name) const { return (path_ / name).string(); }

 private:
  fs::path path_;
  int lock_ = -1;
};

// |W - Q| / |W| of the weights that were quantized again, W what they were to be.
double error_of(const BridgeResult& result) {
  double error = 0, original = 0;
  for (const BridgeTensor& tensor : result.tensors) {
    if (tensor.squared_change <= 0) continue;
    error += tensor.squared_error;
    original += tensor.squared_original;
  }
  return std::sqrt(error / std::max(original, 1e-300));
}

}  // namespace

void expect_room_for_loftq_base(const TrainArguments& arguments) {
  if (arguments.loftq_rounds > 1 && !arguments.overwrite && fs::exists(arguments.loftq_base))
    throw Error(ErrorCode::kAlreadyExists,
                fmt::format("{}: exists already (--overwrite replaces it)", arguments.loftq_base));
}

void make_loftq_base(const TrainArguments& arguments, const TrainOptions& options, const std::string& base,
                     std::span<const TrainRow> rows) {
  const std::string& output = arguments.loftq_base;
  const std::string original = model_folder(arguments.loftq);
  const Checkpoint first(base);
  const Scratch scratch(output);
  ModelArguments at = arguments.model;
  catch_interrupts();
  for (int64_t round = 1; round < arguments.loftq_rounds; ++round) {
    if (interrupted()) throw Error(ErrorCode::kInterrupted, "interrupted before the first step");
    const std::string adapter = scratch.file(fmt::format("adapter-{}", round));
    {
      const Model model = load_model(at);
      Trainer trainer(model, {rows.begin(), rows.end()}, options);
      trainer.start_from_original(original);
      trainer.save_adapter(adapter, base);
    }
    const bool last = round + 1 == arguments.loftq_rounds;
    const std::string made = last ? output : scratch.file(fmt::format("base-{}", round));
    BridgeOptions how;
    how.lora = adapter;
    how.lora_weight = -1;
    how.keep_packed = true;
    how.original = original;
    ConvertControl control;
    control.threads = arguments.model.threads;
    control.overwrite = last && arguments.overwrite;
    control.cancelled = [] { return interrupted(); };
    const BridgeResult result = write_folder(first, made, how, control);
    note("loftq     round {}: {} weights quantized again, {:.2f} % from what they were to be\n", round + 1,
         result.merged, 100 * error_of(result));
    if (round > 1) {
      std::error_code ignored;
      fs::remove_all(at.model, ignored);
    }
    at.model = made;
  }
}

}  // namespace nfloat::cli
