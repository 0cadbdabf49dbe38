// SPDX-License-Identifier: Apache-2.0
#ifndef NFLOAT_GENERATE_PREFIX_FOLDER_H_
#define NFLOAT_GENERATE_PREFIX_FOLDER_H_

#include <condition_variable>
#include <cstdint>
#include <list>
#include <mutex>
#include <optional>
#include <span>
#include <string>
#include <thread>
#include <vector>

#include "nfloat/model.h"

namespace nfloat {

// Keys and values of sequences that have ended, in files of a folder, for later sequences that begin in the
// same way: of this process and of later ones. A file holds whole pages of one sequence and its tokens; it
// appears whole or not at all, and is used where its checksum is right and it was made with the same weights,
// arithmetic and program. What the folder takes is bounded: what was not used for longest goes first, of
// whichever model it is. Files and folder are for their owner alone, as their tokens are what was said. For
// one thread, which is the one that computes.
class PrefixFolder {
 public:
  // Makes the folder. `root`: an empty session of those that are kept. Throws kUnsupported where keys and
  // values are not in this process's memory whole; kIo.
  PrefixFolder(const std::string& path, uint64_t most_bytes, const Session& root);
  ~PrefixFolder();  // writes what waits

  // Keeps what fills whole pages, on a thread of its own. Nothing is kept while two others wait, nor what a
  // file holds already. What cannot be written is not kept.
  void keep(std::span<const int32_t> tokens, const Session& session);
  // How many of the first `tokens` some file has.
  int64_t longest(std::span<const int32_t> tokens);
  // A session with more than `beyond` of the first `tokens`, as long as any file has them. What a file that
  // is gone or damaged promised is forgotten.
  std::optional<Session> find(std::span<const int32_t> tokens, int64_t beyond, const Session& root);
  // Gives back the pages that were kept for writing, when they are written. False: there were none.
  bool finish();

 private:
  struct Entry {
    std::string name;
    std::vector<int32_t> tokens;
  };
  struct Task {
    std::vector<int32_t> tokens;
    Session session;
  };

  std::string path_of(const std::string& name) const { return folder_ + "/" + name; }
  void read_folder();
  void work();
  void write(const Task& task);
  // Removes files until `bytes` more fit. False: they never do.
  bool make_room(uint64_t bytes);
  void drop_written();
  bool read(const Entry& entry, int64_t positions, Session& into) const;
  void forget(const std::string& name);

  const std::string folder_;
  const uint64_t most_bytes_, page_bytes_;
  uint64_t identity_;  // of all that decides what keys and values are

  std::mutex mutex_;  // of what follows
  std::condition_variable changed_;
  std::list<Entry> entries_;
  std::list<Task> tasks_;  // the first is being written
  // Pages are shared with sessions at work, which look whether they own one alone: the thread that computes
  // gives them back.
  std::list<Task> written_;
  bool ending_ = false;
  std::thread thread_;
};

}  // namespace nfloat

#endif  // NFLOAT_GENERATE_PREFIX_FOLDER_H_
