// SPDX-License-Identifier: Apache-2.0
#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <cstring>
#include <functional>
#include <memory>

#include "base/json.h"
#include "bench_device.h"
#include "bench_weights.h"
#include "commands.h"
#include "model_options.h"
#include "nfloat/error.h"
#include "nfloat/linear.h"
#include "nfloat/machine.h"
#include "nfloat/quantize.h"
#include "progress.h"
#include "table.h"

namespace nfloat::cli {
namespace {

using Clock = std::chrono::steady_clock;

struct Options {
  std::vector<int> threads;
  double seconds = 45;
  std::string device;
  int64_t memory_mib = 1024;
  std::string only;
  bool json = false;
};

// What bounds a row: bytes to or from memory, or operations.
enum class Bound { kRead, kWrite, kCopy, kFma, kBf16, kInt8, kNone };

const char* bound_name(Bound bound) {
  constexpr const char* kNames[] = {"read", "write", "copy", "FMA", "bf16", "int8", ""};
  return kNames[static_cast<int>(bound)];
}

double limit_of(const MachineLimits& limits, Bound bound) {
  const double all[] = {
      limits.read, limits.write, limits.copy, limits.fma_f32, limits.dot_bf16, limits.dot_int8, 0};
  return all[static_cast<int>(bound)];
}

struct Row {
  std::string name;
  const char* unit;  // of the rates: 10^9 of something a second
  double work;       // 10^9 of the unit in one call
  Bound bound;
  double bounded;  // 10^9 of the bound's unit in one call
  struct Cell {
    double rate = 0;   // median
    double share = 0;  // of the limit at that number of threads; 0: there is none
  };
  std::vector<Cell> cells;  // one for each number of threads
};

// Names the rows first (nothing is allocated for those not wanted), then measures them one after another.
class Kernels {
 public:
  Kernels(const Options& options, const std::vector<MachineLimits>& limits)
      : options_(options), limits_(limits) {}

  // With `seconds_a_row` 0 nothing is measured: the rows wanted are counted.
  std::vector<Row> run(double seconds_a_row, size_t count) {
    seconds_ = seconds_a_row;
    count_ = count;
    rows_.clear();
    quantize_rows();
    dequantize_rows();
    for (const int64_t rows : {int64_t{4096}, int64_t{14336}}) vector_rows(rows);
    matrix_rows();
    pack_rows();
    bar_.finish();
    return std::move(rows_);
  }

 private:
  using Body = std::function<void(int threads)>;

  // Whether to measure rows called this; without a measurement to follow, only notes that they are wanted.
  bool wanted(const std::string& name) {
    if (!options_.only.empty() && name.find(options_.only) == std::string::npos) return false;
    if (seconds_ > 0) return true;
    rows_.push_back({name, "", 0, Bound::kNone, 0, {}});
    return false;
  }

  // Median seconds of body(threads) in at least three rounds of at least a millisecond, after one that does
  // not count.
  double seconds_of(const Body& body, int threads) const {
    constexpr double kRound = 1e-3;
    constexpr size_t kRounds = 3;
    const Clock::time_point begin = Clock::now();
    const auto since = [](Clock::time_point start) {
      return std::chrono::duration<double>(Clock::now() - start).count();
    };
    std::vector<double> all;
    body(threads);
    while (all.size() < kRounds || since(begin) < seconds_ / static_cast<double>(limits_.size())) {
      const Clock::time_point start = Clock::now();
      int64_t times = 0;
      do {
        body(threads);
        ++times;
      } while (since(start) < kRound);
      all.push_back(since(start) / static_cast<double>(times));
      if (interrupted()) throw Error(ErrorCode::kInterrupted, "interrupted while measuring");
    }
    std::nth_element(all.begin(), all.begin() + static_cast<std::ptrdiff_t>(all.size() / 2), all.end());
    return all[all.size() / 2];
  }

  void measure(Row row, const Body& body) {
    bar_.update(rows_.size(), count_, row.name);
    for (const MachineLimits& limits : limits_) {
      const double seconds = seconds_of(body, limits.threads);
      const double limit = limit_of(limits, row.bound);
      row.cells.push_back({row.work / seconds, limit > 0 ? row.bounded / seconds / limit : 0});
    }
    rows_.push_back(std::move(row));
  }

  int64_t memory_bytes() const { return options_.memory_mib << 20; }

  void quantize_rows() {
    struct Case {
      const char* name;
      ScaleMethod method;
      bool nested, cached;
    };
    constexpr int64_t kSome = int64_t{1} << 22;  // where arithmetic bounds, or memory would be new each time
    for (const Case& one : {Case{"quantize, absmax", ScaleMethod::kAbsmax, false, false},
                            Case{"quantize, absmax, in cache", ScaleMethod::kAbsmax, false, true},
                            Case{"quantize, absmax, 8-bit scales", ScaleMethod::kAbsmax, true, false},
                            Case{"quantize, search", ScaleMethod::kSearch, false, false},
                            Case{"quantize, signed", ScaleMethod::kSigned, false, false}}) {
      if (!wanted(one.name)) continue;
      const bool streamed = one.method == ScaleMethod::kAbsmax && !one.nested && !one.cached;
      const int64_t count = streamed ? memory_bytes() / 4 : one.cached ? kCached : kSome;
      const Buffer weights = some_weights(count);
      const TensorView view{DType::kF32, Shape({count}), {weights.data(), weights.size()}};
      Buffer codes(static_cast<size_t>(count / 2)), scales(static_cast<size_t>(count / kBlock) * 4);
      const Codebook codebook = make_codebook("nf4");
      QuantizeOptions options;
      options.scale = one.method;
      options.double_quantization = one.nested;
      const double work = static_cast<double>(count) / 1e9;
      measure({one.name,
               "Gw/s",
               work,
               streamed ? Bound::kRead : Bound::kNone,
               work * (4 + 0.5 + 4.0 / kBlock),
               {}},
              [&](int threads) {
                options.threads = threads;
                if (one.nested)
                  quantize_blockwise(view, codebook, options);
                else
                  quantize_blockwise(view, codebook, options,
                                     {reinterpret_cast<uint8_t*>(codes.data()), codes.size()},
                                     {reinterpret_cast<float*>(scales.data()), scales.size() / 4});
              });
    }
  }

  void dequantize_rows() {
    for (const bool cached : {false, true}) {
      for (const DType type : {DType::kBF16, DType::kF32}) {
        const std::string name = fmt::format("dequantize to {}{}", type == DType::kF32 ? "f32" : "bf16",
                                             cached ? ", in cache" : "");
        if (!wanted(name)) continue;
        const int64_t count = cached ? kCached : memory_bytes() / 4;
        QuantizedTensor tensor;
        {
          const Buffer weights = some_weights(count);
          tensor = quantize_blockwise({DType::kF32, Shape({count}), {weights.data(), weights.size()}},
                                      make_codebook("nf4"));
        }
        Buffer output(static_cast<size_t>(count) * dtype_bytes(type));
        std::memset(output.data(), 0, output.size());
        measure({name,
                 "Gw/s",
                 static_cast<double>(count) / 1e9,
                 cached ? Bound::kNone : Bound::kWrite,
                 static_cast<double>(output.size()) / 1e9,
                 {}},
                [&](int threads) {
                  dequantize_blockwise(tensor, type, {output.data(), output.size()}, threads);
                });
      }
    }
  }

  // One product after another over matrices that together fill the memory asked for: none is in a cache when
  // its turn comes.
  struct Products {
    std::vector<PackedMatrix> matrices;
    std::vector<float> x, y;
    Activations activations;
    size_t next = 0;

    Products(const Source& source, bool nested, uint64_t memory, int64_t most_rows)
        : x(static_cast<size_t>(most_rows * kCols)), y(static_cast<size_t>(most_rows * source.rows)) {
      uint64_t bytes = 0;
      do {
        matrices.push_back(PackedMatrix::pack(pack_source(source.tensor(nested))));
        bytes += matrices.back().bytes();
      } while (bytes < memory);
      for (size_t i = 0; i < x.size(); ++i) x[i] = static_cast<float>(i * 37 % 101) / 50.0f - 1.0f;
    }
    // Transposed: the gradient of the inputs, for square matrices.
    void multiply(int64_t m, const LinearOptions& options, bool transposed = false) {
      activations.assign(x.data(), kCols, m, kCols);
      if (transposed)
        linear_transposed(matrices[next], activations, y.data(), options);
      else
        linear(matrices[next], activations, y.data(), options);
      next = (next + 1) % matrices.size();
    }
  };

  void vector_rows(int64_t rows) {
    std::unique_ptr<Source> source;
    for (const bool nested : {false, true}) {
      std::unique_ptr<Products> products;
      for (const Precision precision : {Precision::kInt8, Precision::kBF16}) {
        const std::string name =
            fmt::format("{}x{} by 1 row, {}, {} scales", rows, kCols,
                        precision == Precision::kInt8 ? "int8" : "bf16", nested ? "8-bit" : "f32");
        if (!wanted(name)) continue;
        if (!source) source = std::make_unique<Source>(rows);
        if (!products)
          products = std::make_unique<Products>(*source, nested, static_cast<uint64_t>(memory_bytes()), 1);
        LinearOptions options;
        options.precision = precision;
        measure({name,
                 "Gw/s",
                 static_cast<double>(rows * kCols) / 1e9,
                 Bound::kRead,
                 static_cast<double>(products->matrices[0].bytes()) / 1e9,
                 {}},
                [&](int threads) {
                  options.threads = threads;
                  products->multiply(1, options);
                });
      }
    }
  }

  void matrix_rows() {
    constexpr int64_t kRows = 4096, kMost = 512;
    struct Kind {
      const char* name;
      Precision precision;
      Bound bound;
      bool transposed = false;
    };
    std::unique_ptr<Products> products;
    for (const Kind& kind :
         {Kind{"int8", Precision::kInt8, Bound::kInt8}, Kind{"bf16", Precision::kBF16, Bound::kBf16},
          Kind{"bf16, transposed", Precision::kBF16, Bound::kBf16, true},
          Kind{"f32", Precision::kF32, Bound::kFma}}) {
      for (const int64_t m : {int64_t{8}, int64_t{64}, kMost}) {
        const std::string name = fmt::format("{}x{} by {} rows, {}", kRows, kCols, m, kind.name);
        if (!wanted(name)) continue;
        if (!products)
          products =
              std::make_unique<Products>(Source(kRows), false, static_cast<uint64_t>(memory_bytes()), kMost);
        LinearOptions options;
        options.precision = kind.precision;
        const double operations = 2e-9 * static_cast<double>(m * kRows * kCols);
        measure({name, "GOP/s", operations, kind.bound, operations, {}}, [&](int threads) {
          options.threads = threads;
          products->multiply(m, options, kind.transposed);
        });
      }
    }
  }

  void pack_rows() {
    constexpr int64_t kRows = 14336;
    std::unique_ptr<Source> source;
    for (const bool nested : {false, true}) {
      const std::string name = fmt::format("pack {}x{}, {} scales", kRows, kCols, nested ? "8-bit" : "f32");
      if (!wanted(name)) continue;
      if (!source) source = std::make_unique<Source>(kRows);
      PackedMatrix matrix = PackedMatrix::pack(pack_source(source->tensor(nested)));
      const double bytes = static_cast<double>(matrix.bytes()) / 1e9;
      measure({name, "GB/s", bytes, Bound::kCopy, bytes, {}}, [&](int threads) {
        matrix = PackedMatrix();
        matrix = PackedMatrix::pack(pack_source(source->tensor(nested)), threads);
      });
    }
  }

  const Options& options_;
  const std::vector<MachineLimits>& limits_;
  ProgressBar bar_{"bench kernels", "rows"};
  std::vector<Row> rows_;
  double seconds_ = 0;
  size_t count_ = 0;
};

struct LimitName {
  const char* text;
  const char* json;
  const char* unit;
  double MachineLimits::*member;
};
constexpr LimitName kLimitNames[] = {
    {"read from memory", "read_gb_s", "GB/s", &MachineLimits::read},
    {"write to memory, past the caches", "write_gb_s", "GB/s", &MachineLimits::write},
    {"copy, each byte read and written once", "copy_gb_s", "GB/s", &MachineLimits::copy},
    {"read from 512 KiB a thread", "cached_read_gb_s", "GB/s", &MachineLimits::cached_read},
    {"FMA: float32 multiply-add", "fma_f32_gflop_s", "GFLOP/s", &MachineLimits::fma_f32},
    {"bf16: dot products", "dot_bf16_gflop_s", "GFLOP/s", &MachineLimits::dot_bf16},
    {"int8: dot products", "dot_int8_gop_s", "GOP/s", &MachineLimits::dot_int8},
    {"bf16 tiles (AMX)", "tile_bf16_gflop_s", "GFLOP/s", &MachineLimits::tile_bf16},
    {"int8 tiles (AMX)", "tile_int8_gop_s", "GOP/s", &MachineLimits::tile_int8},
};

std::string number(double value) {
  return value <= 0 ? "-" : fmt::format("{:.{}f}", value, value < 10 ? 2 : value < 100 ? 1 : 0);
}

std::string thread_title(const MachineLimits& limits) {
  return fmt::format("{} thread{}", limits.threads, limits.threads == 1 ? "" : "s");
}

void print_text(const std::vector<MachineLimits>& limits, const std::vector<Row>& rows) {
  fmt::print("{}\n\n", machine_processor());
  std::vector<Table::Column> columns{{"limit of this machine", Table::Align::kLeft}};
  for (const MachineLimits& one : limits) columns.push_back({thread_title(one)});
  columns.push_back({"", Table::Align::kLeft});
  Table machine(columns);
  for (const LimitName& name : kLimitNames) {
    std::vector<std::string> cells{name.text};
    for (const MachineLimits& one : limits) cells.push_back(number(one.*name.member));
    cells.push_back(name.unit);
    machine.add(std::move(cells));
  }
  std::vector<std::string> region{"one parallel loop"};
  for (const MachineLimits& one : limits) region.push_back(number(one.region_seconds * 1e6));
  region.push_back("microseconds");
  machine.add(std::move(region));
  fmt::print("{}\n", machine.to_string());

  columns = {{"NF4, block 64", Table::Align::kLeft}};
  for (const MachineLimits& one : limits) {
    columns.push_back({thread_title(one)});
    columns.push_back({"share"});
  }
  columns.insert(columns.end(), {{"", Table::Align::kLeft}, {"of limit", Table::Align::kLeft}});
  Table table(columns);
  bool tiles = false;
  for (const Row& row : rows) {
    std::vector<std::string> cells{row.name};
    for (const Row::Cell& cell : row.cells) {
      cells.push_back(number(cell.rate));
      cells.push_back(cell.share > 0 ? fmt::format("{:.0f} %", 100 * cell.share) : "");
      tiles = tiles || (cell.share > 1.1 && row.bound != Bound::kRead);
    }
    cells.insert(cells.end(), {row.unit, bound_name(row.bound)});
    table.add(std::move(cells));
  }
  fmt::print("{}", table.to_string());
  if (tiles)
    fmt::print("\nShares count dot products of vectors; products of many rows run on tiles and pass them.\n");
}

void print_json(const std::vector<MachineLimits>& limits, const std::vector<Row>& rows) {
  Json json{{"processor", machine_processor()}, {"limits", Json::array()}, {"results", Json::array()}};
  for (const MachineLimits& one : limits) {
    Json entry{{"threads", one.threads}, {"memory_bytes", one.memory}};
    for (const LimitName& name : kLimitNames) entry[name.json] = one.*name.member;
    entry["region_seconds"] = one.region_seconds;
    json["limits"].push_back(std::move(entry));
  }
  for (const Row& row : rows) {
    for (size_t i = 0; i < row.cells.size(); ++i) {
      Json entry{{"name", row.name},
                 {"threads", limits[i].threads},
                 {"rate", row.cells[i].rate},
                 {"unit", row.unit}};
      if (row.cells[i].share > 0) {
        entry["limit"] = bound_name(row.bound);
        entry["share"] = row.cells[i].share;
      }
      json["results"].push_back(std::move(entry));
    }
  }
  fmt::print("{}\n", json.dump(2));
}

void run(const Options& options) {
  if (!options.device.empty() && chosen_device(options.device) != "cpu") {
    if (!options.threads.empty())
      throw UsageError("bench kernels: --threads-list is of the CPU: it does not go with --device");
    return bench_on_device({options.device, options.only, options.memory_mib, options.seconds, options.json});
  }
  catch_interrupts();
  std::vector<MachineLimits> limits;
  Kernels kernels(options, limits);
  const size_t count = kernels.run(0, 0).size();
  if (count == 0) throw UsageError(fmt::format("no row's name contains '{}'", options.only));
  const auto add = [&](int threads) {
    limits.push_back(
        measure_machine({.threads = threads, .memory = static_cast<uint64_t>(options.memory_mib) << 20}));
  };
  for (const int threads : options.threads) add(threads);
  if (options.threads.empty()) {
    add(0);
    if (limits[0].threads > 1) add(1);
    std::reverse(limits.begin(), limits.end());
  }
  const std::vector<Row> rows = kernels.run(options.seconds / static_cast<double>(count), count);
  if (options.json)
    print_json(limits, rows);
  else
    print_text(limits, rows);
}

}  // namespace

void add_bench_kernels_command(const Command& bench) {
  auto options = std::make_shared<Options>();
  const Command command = bench.add_subcommand(
      "kernels", "Measure quantize, dequantize and matrix products beside the limits of this machine");
  command.footer(
      "Examples:\n"
      "  nfloat bench kernels\n"
      "  nfloat bench kernels --threads-list 1 --only 'by 1 row' --json\n"
      "Rates are medians: Gw/s is 10^9 weights a second, GOP/s 10^9 multiplications and additions.\n"
      "'share' compares with the limit measured in the same run: bytes moved with bandwidth,\n"
      "operations with the rate of the instruction. Rows 'in cache' work on 16384 weights, which\n"
      "one thread takes alone; the others pass over --memory, which should exceed every cache.");
  command.add_option("--threads-list", options->threads, "Numbers of threads; otherwise 1 and all")
      .list()
      .between(1, 1024);
  command.add_option("--seconds", options->seconds, "Time for all rows; each gets at least three calls")
      .between(0.01, 86400.0)
      .show_default();
  command.add_option("--memory", options->memory_mib, "MiB passed over").between(16, 1 << 20).show_default();
  command.add_option(
      "--device", options->device,
      "Products on this device beside its own limits: cuda, vulkan, vulkan:N; cpu: as without");
  command.add_option("--only", options->only, "Rows whose name contains this");
  command.add_flag("--json", options->json, "Print JSON");
  command.callback([options] { run(*options); });
}

}  // namespace nfloat::cli
