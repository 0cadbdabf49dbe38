// SPDX-License-Identifier: Apache-2.0
#ifndef NFLOAT_CLI_SIGNALS_H_
#define NFLOAT_CLI_SIGNALS_H_

namespace nfloat::cli {

// For the beginning of the program. Signals that end it remove unfinished outputs first and then end it as
// they would; those that were ignored when it began (nohup) stay ignored. A write beyond the limit of a
// file's size fails instead of ending it. A mapped file that gets shorter ends it with a sentence and exit
// code 1.
void prepare_signals();

// From now on Ctrl-C, a termination request and a hang-up set a flag instead of ending the program; a second
// one ends it. With `only_ctrl_c` the first alone does, and any number of times.
void catch_interrupts(bool only_ctrl_c = false);
// For who is ended by another process: what catch_interrupts() catches is passed over.
void ignore_requests_to_end() noexcept;
// For what serves on when nobody reads its notes any more.
void ignore_broken_pipes() noexcept;
bool interrupted() noexcept;
void forget_interrupt() noexcept;
// 128 and the number of the signal seen last, as a shell counts.
int interrupt_exit_code() noexcept;

}  // namespace nfloat::cli

#endif  // NFLOAT_CLI_SIGNALS_H_
