# The schema and the reference page in docs/ are those that the program prints.
. tests/cli/lib.sh

# printed_as FILE ARGUMENT...
printed_as() {
  file=$1
  shift
  expect_status 0 "$@"
  cmp -s "$folder/out" "$file" || complain "$file is out of date; run: popalm $* >$file"
}
printed_as docs/experiment.schema.json schema
printed_as docs/experiment.md schema --reference
