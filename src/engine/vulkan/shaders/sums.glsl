// SPDX-License-Identifier: Apache-2.0
// Sums and maxima over a workgroup of kThreads; every invocation takes part.
#extension GL_KHR_shader_subgroup_basic : require
#extension GL_KHR_shader_subgroup_arithmetic : require

shared float parts[kThreads / 4];

float sum_of_all(float x) {
  float own = subgroupAdd(x);
  barrier();  // the parts of the call before have been read
  if (subgroupElect()) parts[gl_SubgroupID] = own;
  barrier();
  float sum = 0.0;
  for (uint i = 0; i < gl_NumSubgroups; ++i) sum += parts[i];
  return sum;
}

float largest_of_all(float x) {
  float own = subgroupMax(x);
  barrier();
  if (subgroupElect()) parts[gl_SubgroupID] = own;
  barrier();
  float largest = parts[0];
  for (uint i = 1; i < gl_NumSubgroups; ++i) largest = max(largest, parts[i]);
  return largest;
}
