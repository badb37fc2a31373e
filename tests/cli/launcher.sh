# The launcher on a machine without packages: it says what is missing and changes nothing without apt-get.
. tests/cli/lib.sh

mkdir "$folder/bin" "$folder/tree"
cp popalm "$folder/tree/popalm"
for tool in sh dirname tr id find head cat rm mktemp mkdir gcc g++ cmake ninja; do
  ln -s "$(command -v $tool)" "$folder/bin/$tool"
done

# launch ARGUMENT...: the copy of the launcher, with only those tools to be found.
launch() {
  last="./popalm $*"
  status=0
  PATH=$folder/bin "$folder/tree/popalm" "$@" >"$folder/out" 2>"$folder/err" </dev/null || status=$?
}

launch version
[ "$status" = 1 ] || complain "status 1 expected"
expect_error '^popalm: missing packages: pkg-config libcjson-dev libopenblas-dev '
expect_error 'package manager'
[ ! -e "$folder/tree/build" ] || complain "nothing should be built"

launch test --no-such-option
[ "$status" = 2 ] || complain "status 2 expected"
expect_error '^popalm: usage: ./popalm test'
