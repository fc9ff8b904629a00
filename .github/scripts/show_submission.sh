#!/usr/bin/env bash
# Prints the rows of the method that a valid branch adds, and builds the leaderboard with it:
#   show_submission.sh SUBMITTED REPORT BOARD
# Run it after check_submission.sh, which has merged main into SUBMITTED.
set -euo pipefail
submitted=$1 report=$2 board=$3
base=$(git rev-parse HEAD)
git -C "$submitted" diff --name-only --diff-filter=A "$base" -- results | cut -d/ -f2 | sort -u |
  while read -r method; do
    knbench score "$submitted/results/$method" --markdown | tee -a "$report"
  done
knbench site build "$submitted/results" --output "$board"
