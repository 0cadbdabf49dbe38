// SPDX-License-Identifier: Apache-2.0
#ifndef NFLOAT_TOOLS_EVALUATE_TASKS_H_
#define NFLOAT_TOOLS_EVALUATE_TASKS_H_

#include <string>

#include "base/json.h"
#include "nfloat/tasks.h"

namespace nfloat::cli {

Json task_json(const TaskResult& result);
// Throws JsonError where something is missing.
TaskResult task_from_json(const Json& json);
// What to keep in mind beside the number: "not above chance".
std::string task_remark(const TaskResult& result);

}  // namespace nfloat::cli

#endif  // NFLOAT_TOOLS_EVALUATE_TASKS_H_
