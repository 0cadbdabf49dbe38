// SPDX-License-Identifier: Apache-2.0
#ifndef NFLOAT_BASE_WORKER_TEAM_H_
#define NFLOAT_BASE_WORKER_TEAM_H_

#include <cstdint>

namespace nfloat {

// Calls body(context, share) for every share in [0, shares) from at most `threads` threads (below 65536, as
// `shares`), the caller among them, and returns when all are done. Shares are taken one by one, ascending.
// Shares that no helper has begun are done by the caller, so that a helper that the system does not run
// delays nothing. Helpers wait for the next call awake for a moment (a token asks a hundred times), then
// sleep. Calls from several threads take turns; a call from inside a body runs all its shares itself.
void run_shares(int threads, int shares, void (*body)(void*, int), void* context) noexcept;

}  // namespace nfloat

#endif  // NFLOAT_BASE_WORKER_TEAM_H_
