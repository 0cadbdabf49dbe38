// SPDX-License-Identifier: Apache-2.0
#ifndef NFLOAT_NFLOAT_HPP_
#define NFLOAT_NFLOAT_HPP_

// All of nfloat's C++ interface, in the order in which to read it. A program may include this header or only
// those that it needs. Link nfloat::nfloat (CMake) or `pkg-config nfloat`.
//
// All headers: errors are exceptions of type nfloat::Error; an option `threads` of 0 means
// nfloat::default_threads(); results do not depend on the number of threads or the instruction set unless a
// comment says so. Before version 1.0, every header may change with the minor version.

// 1. What everything is made of.
#include "nfloat/api.h"
#include "nfloat/error.h"
#include "nfloat/interrupt.h"  // an end to calls that have no other
#include "nfloat/targets.h"    // instruction sets
#include "nfloat/tensor.h"     // element types, shapes, tensors that borrow or own their bytes
#include "nfloat/threads.h"    // the default number of threads
#include "nfloat/version.h"

// 2. Codes, and tensors quantized with them.
#include "nfloat/codebook.h"         // NF4 and its rivals: levels, thresholds
#include "nfloat/codebook_errors.h"  // what a code costs on a known distribution
#include "nfloat/quantize.h"         // blocks, scales, double quantization

// 3. Models as files.
#include "nfloat/adapter.h"       // low-rank adapters beside the weights
#include "nfloat/adapter_gguf.h"  // the same as files of llama.cpp
#include "nfloat/bridge.h"        // GGUF to and from Hugging Face folders
#include "nfloat/checkpoint.h"    // safetensors files and folders
#include "nfloat/convert.h"       // whole checkpoints: quantize, dequantize, check
#include "nfloat/gguf.h"          // llama.cpp's files
#include "nfloat/imatrix.h"       // llama.cpp's importance matrices
#include "nfloat/tensor_role.h"   // what a tensor is in its model

// 4. Models that run.
#include "nfloat/chat.h"          // chat templates
#include "nfloat/conversation.h"  // turns of a conversation, with the cache reused
#include "nfloat/engine.h"        // many sequences continued together
#include "nfloat/generate.h"      // the loop that makes text
#include "nfloat/grammar.h"       // text that keeps to a schema or an expression
#include "nfloat/lead.h"          // sessions that other ranks follow
#include "nfloat/memory_plan.h"   // what fits, from config.json alone
#include "nfloat/model.h"         // weights, sessions, batches
#include "nfloat/model_config.h"
#include "nfloat/model_size.h"
#include "nfloat/ranks.h"  // several processes that compute one model
#include "nfloat/sampler.h"
#include "nfloat/serve.h"      // an OpenAI-compatible server
#include "nfloat/synthetic.h"  // models of random weights, for benchmarks
#include "nfloat/tokenizer.h"

// 5. What a format costs.
#include "nfloat/analyze.h"     // distributions of weights
#include "nfloat/compare.h"     // what a format does to a model
#include "nfloat/comparison.h"  // formats side by side, a recommendation
#include "nfloat/evaluate.h"    // perplexity, divergence
#include "nfloat/formats.h"     // number formats as round trips of weights
#include "nfloat/plot.h"
#include "nfloat/report.h"
#include "nfloat/results.h"  // results as JSON documents
#include "nfloat/tasks.h"    // tests with known answers

// 6. Models changed by a text.
#include "nfloat/budget.h"        // block sizes by what each weight costs
#include "nfloat/calibrate.h"     // 4-bit weights chosen by what the model does
#include "nfloat/train.h"         // adapters beside a frozen model
#include "nfloat/train_data.h"    // rows and what is predicted of them
#include "nfloat/train_report.h"  // a run as a page

// 7. The parts below.
#include "nfloat/device_bench.h"  // what a device does beside its own limits
#include "nfloat/files.h"         // files that appear whole or not at all
#include "nfloat/linear.h"        // products of activations with packed weights
#include "nfloat/machine.h"       // what this machine can do, measured
#include "nfloat/text.h"          // text that a terminal can show

#endif  // NFLOAT_NFLOAT_HPP_
