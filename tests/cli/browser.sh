# The report in a browser, at the width of a phone and of a desktop: no script error, nothing wider than the window, no
# text of a chart outside of it or over another, values under the pointer, arms that can be hidden. Without Chromium this
# test is skipped, and says so. A second argument is a report to look at instead, a third a folder for screenshots.
. tests/cli/lib.sh
browser=$(command -v chromium || command -v chromium-browser || command -v google-chrome || true)
if [ -z "$browser" ]; then
  echo "skipped: there is no chromium here"
  exit 77
fi
export OMP_NUM_THREADS=1

# browse OPTION... PAGE
browse() {
  timeout 120 "$browser" --headless --no-sandbox --disable-gpu --hide-scrollbars --allow-file-access-from-files \
    --user-data-dir="$folder/profile" "$@" 2>/dev/null
}

report=${2:-}
if [ -z "$report" ]; then
  sed 's/"steps": 12/"steps": 4/; s/"posts": 2,/"posts": 3,/' tests/cli/tiny.json >"$folder/tiny.json"
  arms='{"arms":{"ppo":{"ppo.curriculum":null},"a-long-name-of-an-arm-that-must-fit-somewhere":{}},"seeds":[1,2],"grid":{"ppo.curriculum.pace.order":["easy","hard"],"ppo.lr":[1e-4]}}'
  expect_status 0 run "$folder/tiny.json" --out "$folder/runs" --set "ablate=$arms"
  report=$folder/runs/tiny/report.html
fi

# The report with a script before its own that collects what goes wrong and then looks around.
cat >"$folder/probe.html" <<'HTML'
<script>
const problems = [];
addEventListener("error", (event) => problems.push("script error: " + event.message));
addEventListener("securitypolicyviolation", (event) => problems.push("policy: " + event.violatedDirective));
const named = (e) => e.tagName + (e.className && e.className.baseVal === undefined ? "." + e.className : "") +
    " \"" + e.textContent.trim().slice(0, 30) + "\"";
const shown = (e) => e.getClientRects().length > 0;

function widths(when) {
  const wide = document.documentElement.scrollWidth, window_ = document.documentElement.clientWidth;
  if (wide > window_) problems.push(`${when}: the page is ${wide} wide in a window of ${window_}`);
  for (const e of document.querySelectorAll("main *"))
    if (shown(e) && !e.closest(".scroll, pre, svg") && e.getBoundingClientRect().right > window_ + 1)
      problems.push(`${when}: ${named(e)} reaches to ${Math.round(e.getBoundingClientRect().right)} of ${window_}`);
}

function charts() {
  for (const svg of document.querySelectorAll("svg")) {
    if (!shown(svg)) continue;
    const box = svg.getBoundingClientRect(), name = svg.getAttribute("aria-label");
    const texts = [...svg.querySelectorAll("text")].map((e) => [e, e.getBoundingClientRect()]);
    for (const [e, r] of texts)
      if (r.left < box.left - 1 || r.right > box.right + 1 || r.bottom > box.bottom + 1)
        problems.push(`${name}: text "${e.textContent}" leaves the chart`);
    texts.forEach(([a, r], i) => texts.slice(0, i).forEach(([b, s]) => {
      const over = Math.min(r.right, s.right) - Math.max(r.left, s.left);
      const down = Math.min(r.bottom, s.bottom) - Math.max(r.top, s.top);
      if (over > 1 && down > 4) problems.push(`${name}: "${a.textContent}" stands over "${b.textContent}"`);
    }));
  }
}

function pointer() {
  const svg = document.querySelector("svg[data-hover]"), box = svg.getBoundingClientRect();
  for (const share of [0.2, 0.95]) {
    svg.dispatchEvent(new PointerEvent("pointermove", {clientX: box.left + share * box.width, clientY: box.top + 20}));
    const tip = document.querySelector(".tip"), figure = svg.closest("figure").getBoundingClientRect();
    if (!tip || !/step \d+/.test(tip.textContent)) problems.push("no values under the pointer");
    else if (tip.getBoundingClientRect().left < figure.left) problems.push("the values begin left of their chart");
  }
  svg.dispatchEvent(new PointerEvent("pointerleave"));
  if (document.querySelector(".tip")) problems.push("the values stay when the pointer leaves");
  const button = document.querySelector(".legend button");
  if (!button) return;
  button.click();
  if (!document.querySelector(".series.hidden-arm")) problems.push("an arm cannot be hidden");
  button.click();
  if (document.querySelector(".series.hidden-arm")) problems.push("an arm cannot be shown again");
}

addEventListener("load", () => setTimeout(() => {
  try {
    widths("at first");
    charts();
    pointer();
    document.querySelectorAll("details").forEach((details) => { details.open = true; });
    widths("all open");
    charts();
  } catch (error) { problems.push("probe: " + error); }
  parent.postMessage(problems.length ? problems.join(" | ") : "no problem", "*");
}, 50));
</script>
HTML
sed "/^<meta name=\"color-scheme\"/r $folder/probe.html" "$report" >"$folder/probed.html"

for width in 390 1400; do
  last="report at $width"
  cat >"$folder/frame.html" <<HTML
<!doctype html><body style="margin:0"><iframe src="probed.html" style="border:0;width:${width}px;height:3000px"></iframe>
<script>addEventListener("message", (event) => { document.body.dataset.result = event.data; });</script></body>
HTML
  browse --window-size=1500,3000 --virtual-time-budget=20000 --dump-dom "file://$folder/frame.html" >"$folder/out"
  expect_output 'data-result="no problem"'
  if [ -n "${3:-}" ]; then
    sed "s|src=\"probed.html\"|src=\"file://$(realpath "$report")\"|; s/height:3000px/height:${4:-6000}px/" "$folder/frame.html" >"$folder/look.html"
    browse --window-size="$((width < 500 ? 500 : width)),${4:-6000}" --screenshot="$3/report-$width.png" "file://$folder/look.html"
  fi
done
