// SPDX-License-Identifier: Apache-2.0
#ifndef NFLOAT_BASE_WORKER_TEAM_H_
#define NFLOAT_BASE_WORKER_TEAM_H_

#include <cstdint>

namespace nfloat {

// Calls body(context, share) for every share in [0, shares) from at most `threads` threads (below 65536, as
// `shares`), the caller among them, and returns when all are done. Shares are taken one by one, ascending.
// Shares that no helper has begun are done by the caller, so that a helper that the system does not run, or
// a thread that it refuses, delays nothing.
//
// Helpers belong to teams. A call takes the team that its thread had last, or another idle one, or makes one;
// it gives the team back when it returns. So calls from several threads run at the same time and never wait
// for each other. A call from inside a body, and a call that finds 64 teams at work, runs all its shares
// itself. There are at most 4096 helpers; those that do not work end with the process, or when the library is
// unloaded.
//
// Helpers wait for the next call awake for a moment (a token asks a hundred times), then sleep. They sleep at
// once where more threads are in loops than there are processors.
//
// A child of fork() has no helpers and makes its own at its first call, also when another thread was inside a
// call. (A child forked from inside a body can call this, but cannot return into the call around it.)
void run_shares(int threads, int shares, void (*body)(void*, int), void* context) noexcept;

}  // namespace nfloat

#endif  // NFLOAT_BASE_WORKER_TEAM_H_
