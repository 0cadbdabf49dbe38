// SPDX-License-Identifier: Apache-2.0
#ifndef NFLOAT_CONVERT_PARTIAL_FOLDER_H_
#define NFLOAT_CONVERT_PARTIAL_FOLDER_H_

#include <cstddef>
#include <functional>
#include <memory>
#include <set>
#include <string>
#include <system_error>
#include <utility>
#include <vector>

#include "base/atomic_file.h"
#include "base/unfinished.h"
#include "nfloat/checkpoint.h"
#include "nfloat/convert.h"

namespace nfloat {

// What decides every byte of an output: names and values, in words. Two runs with the same one write the same
// shards.
using ConversionKey = std::vector<std::pair<std::string, std::string>>;

// OUT.partial: where the files of a folder OUT are gathered until all of them are there. Finished shards
// outlive a run that dies, and the next one with the same key goes on with them. It holds the key
// ("conversion"), the files ("model/") and for each finished shard a checksum of its bytes ("SHARD.sum").
// Held by one run at a time, or by any number that make a part each.
// Anything else in it, and a link or a pipe in place of any of it, is refused and stays.
class PartialFolder {
 public:
  // Makes it, or takes what an earlier run left. Throws kAlreadyExists: another run holds it; it belongs to
  // another conversion (the first difference is named); the input was changed since; something in it is not
  // of a conversion to `names`, the files of the output, those of sub-folders as "FOLDER/NAME". `control`:
  // parts, finish and fresh.
  PartialFolder(const Checkpoint& input, const std::string& target, const ConversionKey& key,
                const ConvertControl& control, std::set<std::string> names);
  PartialFolder(const PartialFolder&) = delete;
  PartialFolder& operator=(const PartialFolder&) = delete;
  // Removes what is no use to a later run: all, unless keep() was called or others may be at work.
  ~PartialFolder();

  static std::string path_of(const std::string& target) { return target + ".partial"; }
  // Where the output's files are written.
  const std::string& files() const noexcept { return files_; }
  // Before a shard gets its name: notes the checksum of its bytes, which are in the file `written` meanwhile.
  void seal(const std::string& shard, const std::string& written) const;
  bool is_sealed(const std::string& shard) const;
  // Whether a shard still has the bytes that it was sealed with. Reads all of it.
  bool is_intact(const std::string& shard, const std::function<bool()>& cancelled) const;
  // Removes what a run that died left beside the shards.
  void clear_others() const;
  // A shard is whole: a run that dies from here on leaves the folder.
  void keep() noexcept;
  // Removed at the end, whatever is in it: what an error makes useless.
  void give_up() noexcept;
  // As AtomicFolder's.
  void commit(Existing existing, const std::function<void(const std::string&)>& may_be_replaced);

 private:
  void open(const std::string& target, bool shared);
  bool has_shards() const;
  std::string sum_path(const std::string& shard) const;
  void expect_ours() const;
  void expect_own_files(bool other_shards) const;
  void expect_key(const ConversionKey& key);
  void expect_unchanged(const Checkpoint& input, bool of_parts) const;
  std::error_code remove_state() const noexcept;
  void clear() noexcept;

  std::string path_, files_, key_file_;
  std::set<std::string> names_;
  bool shared_ = false, kept_ = false;
  std::shared_ptr<const int> lock_;
  Unfinished unfinished_;  // until keep()
  std::unique_ptr<AtomicFolder> folder_;
};

}  // namespace nfloat

#endif  // NFLOAT_CONVERT_PARTIAL_FOLDER_H_
