"""The style of the page: light and dark, wide and narrow, on paper; nothing is loaded from anywhere."""

# Okabe and Ito's colours, which the colour-blind tell apart; on a dark ground their lighter neighbours.
_LIGHT = ("#0072b2", "#d98200", "#009e73", "#d55e00", "#b8569a", "#3f9fd8", "#882255")
_DARK = ("#56b4e9", "#f0b040", "#2fc79a", "#f0803c", "#dd93c2", "#9ad2f5", "#d0709f")


def _colours(values: tuple[str, ...]) -> str:
    return "".join(f"--c{i}:{value};" for i, value in enumerate(values))


STYLE = (
    ":root{color-scheme:light dark;--ground:#f4f5f7;--sheet:#fff;--ink:#1b2027;--soft:#5a6472;--rule:#dfe3e8;"
    f"--good:#137547;--bad:#b3261e;--accent:#0b5fb0;{_colours(_LIGHT)}}}"
    "@media(prefers-color-scheme:dark){"
    ":root{--ground:#101317;--sheet:#191d23;--ink:#e7eaee;--soft:#9ba6b4;--rule:#303742;--good:#5fd39a;"
    f"--bad:#ff8a80;--accent:#6db3f7;{_colours(_DARK)}}}}}"
    + "".join(f".c{i}{{--c:var(--c{i})}}" for i in range(7))
    + """
.c-{--c:var(--soft)}
*{box-sizing:border-box}
html{-webkit-text-size-adjust:100%}
body{margin:0;background:var(--ground);color:var(--ink);font:15px/1.5 system-ui,-apple-system,"Segoe UI",
Roboto,"Helvetica Neue",Arial,sans-serif;overflow-wrap:anywhere}
main{max-width:68rem;margin:0 auto;padding:1.5rem 1rem 3rem}
h1{font-size:1.75rem;line-height:1.2;margin:.1rem 0 .4rem;letter-spacing:-.01em}
h2{font-size:1.15rem;margin:0 0 .75rem}
h3{font-size:.95rem;margin:0 0 .4rem}
p{margin:.4rem 0}
.kicker{color:var(--soft);font-size:.85rem;margin:0}
.lead{font-size:1.05rem;max-width:50rem}
.soft,.note{color:var(--soft)}
section{background:var(--sheet);border:1px solid var(--rule);border-radius:10px;padding:1.1rem 1.2rem;
margin-top:1rem}
.cards{display:grid;grid-template-columns:repeat(auto-fit,minmax(17rem,1fr));gap:.8rem;margin-top:1rem}
.card{background:var(--sheet);border:1px solid var(--rule);border-radius:10px;padding:.8rem 1rem .9rem;
display:grid;grid-template-columns:1fr auto;align-items:baseline;align-content:start;column-gap:.5rem}
.card .label{color:var(--soft);font-size:.85rem}
.card .value{font-size:1.6rem;font-weight:650;letter-spacing:-.02em;line-height:1.25;grid-column:1}
.card .was{color:var(--soft);font-size:.85rem;grid-column:1/3}
.change{font-weight:600;font-size:.95rem;text-align:right;font-variant-numeric:tabular-nums}
.good{color:var(--good)}.bad{color:var(--bad)}
.meter{grid-column:1/3;height:6px;border-radius:3px;background:var(--rule);margin-top:.5rem;overflow:hidden}
.meter i{display:block;height:100%;background:var(--accent);border-radius:3px}
section .checks li{background:none}
ul.checks{list-style:none;margin:1rem 0 0;padding:0;display:flex;flex-wrap:wrap;gap:.5rem}
.checks li{border:1px solid var(--rule);background:var(--sheet);border-radius:1rem;padding:.15rem .75rem;
font-size:.88rem}
.checks b{margin-right:.35rem}
.pair{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,24rem),1fr));gap:1.2rem}
figure{margin:0;min-width:0}
svg.chart{display:block;width:100%;max-width:34rem;height:auto}
.chart text{fill:var(--soft);font-size:11px}
.chart .axis{fill:var(--ink)}
.chart .name{fill:var(--ink);paint-order:stroke;stroke:var(--sheet);stroke-width:3px;stroke-linejoin:round}
.grid{stroke:var(--rule);stroke-width:1}
.dots,.ring,.line,.level,.steps{fill:none;stroke:var(--c);stroke-width:1.8;stroke-linejoin:round}
.dots{stroke-width:6;stroke-linecap:round;stroke-opacity:.75}
.ring{stroke-width:11;stroke-linecap:round;stroke-opacity:.35}
.level{stroke-dasharray:6 4}
svg.skyline{display:block;width:100%;height:12rem;border-bottom:1px solid var(--rule);margin-top:.4rem}
.bar .gone{fill:var(--c);opacity:.25}.bar .kept{fill:var(--c)}
.bar:hover .gone{opacity:.5}
.ends{display:flex;justify-content:space-between;gap:1rem;color:var(--soft);font-size:.82rem;
margin:.25rem 0 0}
.ends span:last-child{text-align:right}
ul.legend{list-style:none;display:flex;flex-wrap:wrap;gap:.15rem 1rem;margin:.4rem 0 0;padding:0;
font-size:.85rem}
.legend li{display:flex;align-items:center;gap:.4rem}
.key{flex:none;width:18px;height:12px}
.key .dots{stroke-width:8}
.scroll{overflow-x:auto;margin-top:.7rem}
table{border-collapse:collapse;width:100%;font-size:.9rem}
th,td{padding:.32rem .6rem;text-align:right;border-bottom:1px solid var(--rule);
font-variant-numeric:tabular-nums;overflow-wrap:normal}
th:first-child,td:first-child,.words td,.words th{text-align:left;padding-left:0;overflow-wrap:anywhere}
th{color:var(--soft);font-weight:550;vertical-align:bottom}
td:first-child{min-width:8rem}
.number{white-space:nowrap}
.words td:first-child{color:var(--soft);width:11rem;vertical-align:top}
tr:last-child td{border-bottom:0}
details{margin-top:.9rem}
summary{cursor:pointer;color:var(--accent);font-weight:550}
pre{white-space:pre-wrap;overflow-wrap:anywhere;background:var(--ground);border:1px solid var(--rule);
border-radius:8px;padding:.7rem .9rem;font:.85rem/1.5 ui-monospace,SFMono-Regular,Menlo,Consolas,monospace;
margin:.4rem 0 .9rem}
footer{color:var(--soft);font-size:.82rem;margin-top:1.2rem}
:focus-visible{outline:2px solid var(--accent);outline-offset:2px}
@media(max-width:40rem){
main{padding:1rem .7rem 2rem}
section{padding:.9rem .8rem}
h1{font-size:1.4rem}
.cards{grid-template-columns:repeat(auto-fit,minmax(9.5rem,1fr));gap:.5rem}
.card{padding:.6rem .7rem .7rem;grid-template-columns:1fr}
.card .value{font-size:1.25rem}.card .was,.meter{grid-column:1}
.change{text-align:left}
svg.skyline{height:9rem}
.chart text{font-size:14.5px}
th,td{padding:.3rem .3rem;font-size:.78rem}
td:first-child{min-width:4.5rem}
.words td:first-child{width:7rem}
}
@media print{body{background:#fff}section,.card{break-inside:avoid}}
"""
)
