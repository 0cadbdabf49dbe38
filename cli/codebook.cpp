// SPDX-License-Identifier: Apache-2.0
#include "nfloat/codebook.h"
#include "base/json.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <bit>
#include <cmath>

#include "codebook_command.h"
#include "commands.h"
#include "nfloat/codebook_errors.h"
#include "nfloat/error.h"
#include "nfloat/files.h"
#include "numbers.h"
#include "table.h"

namespace nfloat::cli {
namespace {

// The exact value's distance from the float32 level, in units of that float's last place.
double ulp_error(float level, double exact) {
  const float next = std::nextafter(std::fabs(level), INFINITY);
  const double ulp = static_cast<double>(next) - std::fabs(static_cast<double>(level));
  return (exact - static_cast<double>(level)) / ulp;
}

std::vector<WeightSource> sources(const CodebookOptions& options) {
  std::vector<WeightSource> result;
  for (const std::string& name : options.distributions)
    result.push_back({name, parse_source_distribution(name)});
  return result;
}

Json table_json(const Codebook& codebook, int64_t block_size) {
  Json json;
  json["name"] = codebook.name;
  json["bits"] = codebook.bits;
  json["block_size"] = block_size;
  json["signed_scale"] = codebook.signed_scale;
  json["levels"] = codebook.levels;
  json["levels_hex"] = Json::array();
  for (float level : codebook.levels)
    json["levels_hex"].push_back(fmt::format("{:08x}", std::bit_cast<uint32_t>(level)));
  json["thresholds"] = codebook.thresholds;
  json["code_of_rank"] = codebook.code_of_rank;
  json["exact"] = codebook.exact;
  json["zero_code"] = codebook.zero_code();
  const double widest = expected_block_maximum(block_size);
  json["z_scores"] = Json::array();
  for (float level : codebook.levels) json["z_scores"].push_back(widest * static_cast<double>(level));
  json["probabilities"] = code_frequencies(codebook, block_size);
  return json;
}

void print_table(const Codebook& codebook, int64_t block_size) {
  const std::vector<double> frequencies = code_frequencies(codebook, block_size);
  const double widest = expected_block_maximum(block_size);
  fmt::print("{}: {} bits, {} levels; z-scores and probabilities for normal weights in blocks of {}\n\n",
             codebook.name, codebook.bits, codebook.levels.size(), block_size);
  Table table({{"code"},
               {"level (float32)"},
               {"hex", Table::Align::kLeft},
               {"exact"},
               {"ulp"},
               {"z-score"},
               {"probability"},
               {"up to threshold"}});
  for (size_t rank = 0; rank < codebook.levels.size(); ++rank) {
    const uint8_t code = codebook.code_of_rank[rank];
    const float level = codebook.levels[code];
    table.add({fmt::format("{}", code), fmt::format("{:.9g}", level),
               fmt::format("{:08x}", std::bit_cast<uint32_t>(level)),
               fmt::format("{:.12f}", codebook.exact[code]),
               fmt::format("{:+.2f}", ulp_error(level, codebook.exact[code])),
               fmt::format("{:+.4f}", widest * static_cast<double>(level)),
               fmt::format("{:.5f}", frequencies[code]),
               rank < codebook.thresholds.size() ? fmt::format("{:.9g}", codebook.thresholds[rank]) : "1"});
  }
  fmt::print("{}\n", table.to_string());
  fmt::print(
      "ulp: exact value minus float32 level, in units of the level's last place. z-score: the level times "
      "the expected\n"
      "largest weight of a block, {:.4f} standard deviations. A weight over scale equal to a threshold takes "
      "the lower code.\n",
      widest);
}

void print_errors(const CodebookOptions& options, const std::vector<std::string>& names, Json* json) {
  std::vector<Table::Column> columns = {{"code", Table::Align::kLeft},
                                        {"weights", Table::Align::kLeft},
                                        {"block"},
                                        {"squared/variance"},
                                        {"absolute/deviation"},
                                        {"SQNR dB"},
                                        {"entropy, bits"}};
  if (options.simulate > 0) {
    columns.push_back({"simulated squared"});
    columns.push_back({"simulated absolute"});
  }
  Table table(columns);
  if (json != nullptr) (*json)["errors"] = Json::array();
  for (const WeightSource& source : sources(options)) {
    for (const std::string& name : names) {
      for (int64_t block_size : options.block_sizes) {
        const Codebook codebook = chosen_codebook(options, name, block_size);
        const CodebookErrors errors = codebook_errors(codebook, block_size, source.distribution);
        std::vector<std::string> cells = {codebook.name,
                                          source_distribution_name(source.distribution),
                                          fmt::format("{}", block_size),
                                          fmt::format("{:.8f}", errors.mse),
                                          fmt::format("{:.8f}", errors.mae),
                                          fmt::format("{:.4f}", errors.sqnr_db()),
                                          fmt::format("{:.5f}", errors.entropy)};
        Json entry = {
            {"name", codebook.name},    {"distribution", source_distribution_name(source.distribution)},
            {"block_size", block_size}, {"mse", errors.mse},
            {"mae", errors.mae},        {"sqnr_db", errors.sqnr_db()},
            {"entropy", errors.entropy}};
        if (options.simulate > 0) {
          const SimulatedErrors simulated =
              simulate_codebook_errors(codebook, block_size, source.distribution, options.simulate);
          cells.push_back(
              fmt::format("{:.6f} +- {:.6f}", simulated.errors.mse, simulated.mse_standard_error));
          cells.push_back(
              fmt::format("{:.6f} +- {:.6f}", simulated.errors.mae, simulated.mae_standard_error));
          entry["simulated"] = {{"samples", simulated.samples},
                                {"mse", simulated.errors.mse},
                                {"mse_standard_error", simulated.mse_standard_error},
                                {"mae", simulated.errors.mae},
                                {"mae_standard_error", simulated.mae_standard_error},
                                {"entropy", simulated.errors.entropy}};
        }
        table.add(std::move(cells));
        if (json != nullptr) (*json)["errors"].push_back(std::move(entry));
      }
    }
  }
  if (json == nullptr) fmt::print("{}", table.to_string());
}

void list_codes(bool as_json) {
  Table table({{"code", Table::Align::kLeft}, {"levels"}, {"what it is", Table::Align::kLeft}});
  Json json = Json::array();
  for (const std::string& name : codebook_names()) {
    const size_t levels = make_codebook(name).levels.size();
    table.add({name, fmt::format("{}", levels), std::string(codebook_summary(name))});
    json.push_back({{"name", name},
                    {"levels", levels},
                    {"fitted_to_block_size", codebook_is_fitted(name)},
                    {"summary", codebook_summary(name)}});
  }
  fmt::print("{}", as_json ? json.dump(2) + "\n" : table.to_string());
}

// Options that would be passed over in silence are refused instead.
void check_combination(const CodebookOptions& options, bool named) {
  const bool wants_errors = options.errors || options.simulate > 0;
  if (options.explain && options.sweep_offset) {
    throw UsageError("--explain and --sweep-offset: one at a time");
  }
  if (options.explain && (options.json || !options.plot.empty() || wants_errors)) {
    throw UsageError("--explain is a text: it goes with none of --json, --plot, --errors, --simulate");
  }
  if (options.sweep_offset && (wants_errors || !options.offset.empty())) {
    throw UsageError("--sweep-offset goes with none of --errors, --simulate, --offset");
  }
  if (options.explain || options.sweep_offset) {
    if (!options.file.empty() || (named && options.names != std::vector<std::string>{"nf4"})) {
      throw UsageError("--explain and --sweep-offset are about nf4 alone");
    }
  } else if (!named && (wants_errors || !options.plot.empty() || !options.offset.empty())) {
    throw UsageError("a code is required: nfloat codebook lists them");
  }
}

void run(const CodebookOptions& options) {
  std::vector<std::string> names = options.names;
  if (!options.file.empty()) names.push_back(options.file);
  check_combination(options, !names.empty());
  if (options.sweep_offset) return sweep_offset(options);
  if (options.explain) return explain(options);
  if (names.empty()) return list_codes(options.json);
  expect_outputs_apart({{options.plot, "--plot"}}, {{options.file, "--file"}});
  if (!options.plot.empty()) plot_levels(options, names);
  const bool wants_errors = options.errors || options.simulate > 0;
  Json tables = Json::array();
  for (const std::string& name : names) {
    const Codebook codebook = chosen_codebook(options, name, options.block_sizes.front());
    if (options.json) {
      tables.push_back(table_json(codebook, options.block_sizes.front()));
    } else if (!wants_errors) {
      print_table(codebook, options.block_sizes.front());
      if (&name != &names.back()) fmt::print("\n");
    }
  }
  Json json = tables.size() == 1 ? tables[0] : tables;
  if (wants_errors) {
    Json errors;
    print_errors(options, names, options.json ? &errors : nullptr);
    errors["codebooks"] = std::move(tables);
    json = std::move(errors);
  }
  if (options.json) fmt::print("{}\n", json.dump(2));
}

}  // namespace

Codebook chosen_codebook(const CodebookOptions& options, const std::string& name, int64_t block_size) {
  if (!options.file.empty() && name == options.file) {
    static const Codebook table = load_codebook(name);  // once: a pipe gives it once
    return table;
  }
  if (options.offset.empty()) return make_codebook(name, block_size);
  if (name.size() != 3 || name.substr(0, 2) != "nf" || name[2] < '2' || name[2] > '8') {
    throw UsageError(fmt::format("--offset belongs to nf2 .. nf8, not to '{}'", name));
  }
  const int bits = name[2] - '0';
  if (options.offset == "generalised") return make_normal_float(bits, generalised_offset(bits));
  // A number, or a fraction of two.
  const std::string_view text = options.offset;
  const size_t slash = text.find('/');
  const auto offset = parse_number<double>(text.substr(0, slash));
  const auto divisor = slash == std::string_view::npos ? 1.0 : parse_number<double>(text.substr(slash + 1));
  if (!offset || !divisor || !(*divisor > 0)) {
    throw UsageError(
        fmt::format("--offset '{}': expected a probability between 0.5 and 1, as a number or a fraction "
                    "(929/960), or generalised",
                    options.offset));
  }
  return make_normal_float(bits, *offset / *divisor);
}

void add_codebook_command(const Command& app) {
  auto options = std::make_shared<CodebookOptions>();
  const Command command =
      app.add_subcommand("codebook", "Derive a code (NF4 and its rivals), explain it, compute its errors");
  command.footer(
      "Examples:\n"
      "  nfloat codebook                                    list all codes\n"
      "  nfloat codebook nf4                                levels, thresholds, and the distance from exact, "
      "in ulp\n"
      "  nfloat codebook nf4 --explain                      the derivation: quantiles, the zero, 929/960\n"
      "  nfloat codebook nf4 int4 bof4-s --errors --block-sizes 32,64\n"
      "  nfloat codebook --sweep-offset --plot offset.svg   what the magic number optimises\n"
      "  nfloat codebook --file my.json --errors            a table of your own");
  command.add_option("NAME", options->names, "Codes; none: list them");
  command.add_option("--file", options->file,
                     "A table of your own: JSON (as --json writes it) or numbers as text");
  command
      .add_option("--block-sizes,--block-size", options->block_sizes,
                  "Weights that share a scale; several with commas")
      .list()
      .between(int64_t{2}, int64_t{1} << 30)
      .show_default();
  command.add_option("--offset", options->offset,
                     "nf2 .. nf8: the largest probability (929/960), or 'generalised'");
  command.add_flag("--errors", options->errors, "Squared and absolute error, SQNR and entropy by quadrature");
  command
      .add_option("--distribution", options->distributions,
                  "Of the weights: normal, student-t, student-t:7, laplace")
      .list()
      .show_default();
  command.add_option("--simulate", options->simulate, "Errors also by drawing this many weights")
      .between(int64_t{1}, int64_t{1} << 40);
  command.add_flag("--explain", options->explain, "Explain where NF4's sixteen numbers come from");
  command.add_flag("--sweep-offset", options->sweep_offset,
                   "NF4's error against its offset, and the best offsets");
  command.add_option("--plot", options->plot,
                     "Write a picture (SVG): the levels on the density, or the sweep");
  command.add_flag("--json", options->json, "Print JSON");
  command.callback([options] {
    if (options->block_sizes.empty()) options->block_sizes = {64};
    if (options->distributions.empty()) options->distributions = {"normal"};
    run(*options);
  });
}

}  // namespace nfloat::cli
