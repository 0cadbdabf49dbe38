# shellcheck shell=bash
# SPDX-License-Identifier: Apache-2.0
# What ./test and ./demo share: a run is a row of stages, each timed, its output kept in build/logs, its log printed when it fails.

# Overridable by the caller's environment; compilers' caches are used only when they are there.
jobs=${NFLOAT_JOBS:-$(nproc)}
if command -v ccache >/dev/null && [ -z "${CMAKE_CXX_COMPILER_LAUNCHER:-}" ]; then
  export CMAKE_CXX_COMPILER_LAUNCHER=ccache
fi
# What one checkout has compiled serves the next one, wherever it lies.
export CCACHE_BASEDIR=${CCACHE_BASEDIR:-$PWD} CCACHE_NOHASHDIR=${CCACHE_NOHASHDIR:-1}

logs=build/logs
stage_rows=()
passed=0 failed=0 skipped=0
readonly kSkipped=77  # exit status of a stage that cannot run here; its last line says why

last_begin=  # seconds after which no stage begins any more; empty: whenever

# left_out NAME...: whether it is too late for these stages, which then count as skipped.
left_out() {
  local name
  [ -n "$last_begin" ] && [ "$SECONDS" -ge "$last_begin" ] || return 1
  for name in "$@"; do
    skipped=$((skipped + 1))
    stage_rows+=("$(printf '%5s    %-34s %s' - "$name" "not run: $((last_begin / 60)) minutes were over")")
    printf '== %s\n   not run: %d minutes were over\n' "$name" $((last_begin / 60))
  done
}

# stage NAME COMMAND...: runs it; counts the tests it recorded (run_ctest), or itself as one.
stage() {
  local name=$1 begin=$SECONDS rc log
  shift
  ! left_out "$name" || return 1
  log="$logs/${name//[^a-zA-Z0-9]/_}.log"
  mkdir -p "$logs"
  rm -f "$logs/counts"
  printf '== %s\n' "$name"
  set +e
  (set -eo pipefail; "$@") >"$log" 2>&1 </dev/null
  rc=$?
  set -e
  local seconds=$((SECONDS - begin)) stage_passed=0 stage_failed=0 stage_skipped=0 outcome=ok
  if [ -s "$logs/counts" ]; then
    read -r stage_passed stage_failed stage_skipped < <(
      awk '{ p += $1; f += $2; s += $3 } END { print p, f, s }' "$logs/counts")
  elif [ "$rc" -eq "$kSkipped" ]; then
    stage_skipped=1
  elif [ "$rc" -eq 0 ]; then
    stage_passed=1
  fi
  if [ "$rc" -eq "$kSkipped" ]; then
    outcome="skipped: $(tail -n 1 "$log")"
  elif [ "$rc" -ne 0 ]; then
    outcome=FAILED
    [ "$stage_failed" -gt 0 ] || stage_failed=1
    printf -- '---- the log of "%s" (%s)\n' "$name" "$log"
    tail -n 300 "$log"
    printf -- '---- end of the log of "%s"\n' "$name"
  elif [ $((stage_passed + stage_skipped)) -gt 1 ]; then
    outcome="ok, $stage_passed tests"
    [ "$stage_skipped" -eq 0 ] || outcome+=", $stage_skipped skipped"
  fi
  passed=$((passed + stage_passed)) failed=$((failed + stage_failed)) skipped=$((skipped + stage_skipped))
  stage_rows+=("$(printf '%5d s  %-34s %s' "$seconds" "$name" "$outcome")")
  printf '   %s (%d s)\n' "$outcome" "$seconds"
  return $((rc == 0 || rc == kSkipped ? 0 : 1))
}

# The closing table and line; returns 1 when anything failed.
summary() {
  echo
  printf '%s\n' "${stage_rows[@]}"
  printf '%5d s  in all\n\n' "$SECONDS"
  printf '%d passed, %d failed, %d skipped\n' "$passed" "$failed" "$skipped"
  [ "$failed" -eq 0 ]
}

# build PRESET [TARGET...]
build() {
  local preset=$1
  shift
  cmake --preset "$preset"
  cmake --build --preset "$preset" -j "$jobs" ${1:+--target "$@"}
}

# run_ctest PRESET [CTEST OPTION...]: records what passed, failed and was skipped. No test at all is a failure.
run_ctest() {
  local folder="build/$1" rc=0 xml="$PWD/$logs/ctest.xml"
  shift
  rm -f "$xml"
  ctest --test-dir "$folder" -j "$jobs" --output-on-failure --no-tests=error --timeout 600 --output-junit "$xml" "$@" || rc=$?
  # One attribute a line stands before the first test case.
  awk -F'"' '
    /<testcase/ { exit }
    $1 ~ /(tests|failures|disabled|skipped)=$/ { sub(/^[ \t]*/, "", $1); count[$1] = $2 }
    END {
      skipped = count["skipped="] + count["disabled="]
      print count["tests="] - count["failures="] - skipped, count["failures="] + 0, skipped
    }' "$xml" >>"$logs/counts"
  return "$rc"
}
