#!/usr/bin/env bash
# Posts a report as a comment of the open pull requests whose branch ends at a commit:
#   comment.sh REPORT
# The commit is HEAD_SHA of the event that started the workflow. No file states the pull request.
set -euo pipefail
report=$1
[[ $HEAD_SHA =~ ^[0-9a-f]{40}$ ]] || { echo "error: HEAD_SHA is not the hash of a commit"; exit 1; }
numbers=$(gh api --paginate "repos/$GITHUB_REPOSITORY/pulls?state=open&per_page=100" \
  --jq ".[] | select(.head.sha == \"$HEAD_SHA\") | .number")
body=$(mktemp)
{
  echo 'Numbers recomputed from the records:'
  echo '```'
  head -c 60000 "$report" | LC_ALL=C tr -d '\000-\010\013-\037\177' | sed 's/```/---/g'
  echo '```'
} > "$body"
for number in $numbers; do
  gh pr comment "$number" --repo "$GITHUB_REPOSITORY" --body-file "$body"
done
