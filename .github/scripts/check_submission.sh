#!/usr/bin/env bash
# Checks a branch that adds results. Run it in a checkout of the main branch, whose code it uses:
#   check_submission.sh SUBMITTED REPORT
# SUBMITTED is a checkout of the branch, with its history. It is data: nothing in it is executed. Main is merged into it,
# so that the results are compared with those that main has now. REPORT receives the output.
set -euo pipefail
submitted=$1 report=$2
export GIT_LFS_SKIP_SMUDGE=1 GIT_TERMINAL_PROMPT=0
: > "$report"

fail() {
  echo "error: $1" | tee -a "$report"
  exit 1
}

git_in_submitted() {
  git -C "$submitted" -c core.hooksPath=/dev/null -c user.name=check -c user.email=check@example.org "$@"
}

base=$(git rev-parse HEAD)
git_in_submitted fetch --quiet --no-tags "$PWD" HEAD || fail "the main branch cannot be read; run the workflow again"
git_in_submitted merge-base "$base" HEAD > /dev/null || fail "the branch has no commit in common with the main branch"
git_in_submitted merge --quiet --no-edit "$base" > /dev/null 2>&1 ||
  fail "the branch changes files that the main branch changed as well; a submission only adds files of one method"
knbench validate "$submitted/results" --against "$base" 2>&1 | tee -a "$report"
