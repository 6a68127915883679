"""What the pages look like, and the little that moves in them."""

from __future__ import annotations

STYLE = """
:root { color-scheme: light dark; --ink: #222; --soft: #777; --grid: #e4e4e4; --bg: #fff;
  --main: #2563a8; --top: #c2410c }
@media (prefers-color-scheme: dark) {
  :root { --ink: #ddd; --soft: #999; --grid: #333; --bg: #161616; --main: #6ea8e6; --top: #fb923c }
}
body { font: 15px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--bg);
  max-width: 1100px; margin: 2em auto; padding: 0 1em }
h1 { font-size: 1.4em } h2 { font-size: 1.1em; margin: 2em 0 0.3em }
p { margin: 0.2em 0 } .note { color: var(--soft) }
section { overflow-x: auto }
svg text { font: 12px system-ui, sans-serif; fill: var(--soft) }
svg .name { fill: var(--ink) } svg .mark { font-size: 11px }
.grid { stroke: var(--grid) } .axis { stroke: var(--soft) }
.dot { fill: none; stroke: var(--main); opacity: 0.7 } .front { fill: var(--top) }
.bar { fill: var(--main) }
.best { fill: none; stroke: var(--top); stroke-width: 2 }
.many { fill: none; stroke: var(--c); stroke-width: 2 }
.curve { fill: none; stroke: var(--c, var(--main)); stroke-width: 1.3; opacity: 0.75 }
.early { stroke-dasharray: 4 3; opacity: 0.5 }
.end { fill: var(--c, var(--main)) }
table { border-collapse: collapse; font-size: 13px }
th, td { text-align: left; padding: 2px 14px 2px 0; border-bottom: 1px solid var(--grid) }
.winner { font-weight: bold }
.on { opacity: 1; stroke: var(--top); stroke-width: 3 } tr.on { background: var(--grid) }
#tip { position: fixed; display: none; pointer-events: none; max-width: 30em; padding: 4px 8px;
  font-size: 13px; color: var(--bg); background: var(--ink); border-radius: 4px }
"""

SCRIPT = """
(function () {
  var tip = document.getElementById("tip");
  function each(trial, on) {
    if (trial === null) return;
    document.querySelectorAll('[data-trial="' + trial + '"]').forEach(function (e) {
      e.classList.toggle("on", on);
    });
  }
  document.addEventListener("mouseover", function (event) {
    var at = event.target.closest("[data-trial], [data-tip]");
    if (!at) return;
    each(at.getAttribute("data-trial"), true);
    var text = at.getAttribute("data-tip");
    if (!text) return;
    tip.textContent = text;
    tip.style.display = "block";
    tip.style.left = Math.min(event.clientX + 12, window.innerWidth - 320) + "px";
    tip.style.top = event.clientY + 14 + "px";
  });
  document.addEventListener("mouseout", function (event) {
    var at = event.target.closest("[data-trial], [data-tip]");
    if (!at) return;
    each(at.getAttribute("data-trial"), false);
    tip.style.display = "none";
  });
})();
"""
