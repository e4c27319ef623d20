// Figures of the gallery: drawn by Vega, which lies beside this file, in the colours of the page; sizes of pictures.
(() => {
  // pictures have two pixels for each that they were designed for, which sets the size at which their words can be read
  for (const picture of document.querySelectorAll("article p img[src*='_images']")) {
    const size = () => picture.style.setProperty("--designed", `${picture.naturalWidth / 2}px`);
    if (picture.complete) size(); else picture.addEventListener("load", size);
  }
  const charts = document.querySelectorAll(".shoal-chart");
  window.shoalFigures = charts.length ? null : Promise.resolve(0); // resolved when all are drawn
  if (!charts.length) return;
  const DARK = { "#1a1a1a": "#e6e6e6", "#000000": "#e6e6e6", "#0072B2": "#4aa8e0", "#e6e6e6": "#3a3f44" };
  const here = document.currentScript.src.replace(/figures\.js.*$/, "");
  const isDark = () => {
    const chosen = document.body.dataset.theme;
    return chosen === "dark" || (chosen !== "light" && matchMedia("(prefers-color-scheme: dark)").matches);
  };

  // a panel that is wider than the page is drawn narrower, not smaller, unless its words would meet
  function fitted(panel, width) {
    const layers = panel.layer ?? [panel], room = width - 72;
    const isWordy = layers.some((layer) => (layer.mark?.type ?? layer.mark) === "text" || layer.encoding?.x?.axis?.labelExpr);
    if (!isWordy && panel.width > room && panel.width !== panel.height) panel.width = Math.max(room, 200);
  }

  function dressed(spec, width, dark) {
    let text = JSON.stringify(spec);
    if (dark) text = text.replace(/#1a1a1a|#000000|#0072B2|#e6e6e6/g, (colour) => DARK[colour]);
    const result = JSON.parse(text), ink = dark ? "#d8d8d8" : "#1a1a1a", soft = dark ? "#767c82" : "#888";
    if (result.concat && width < 720) result.columns = 1; // panels below each other on a small screen
    for (const panel of result.concat ?? [result]) fitted(panel, width);
    const config = (result.config ??= {});
    config.background = "transparent";
    config.axis = { ...config.axis, labelColor: ink, titleColor: ink, domainColor: soft, tickColor: soft };
    config.title = { ...config.title, color: ink };
    config.legend = { ...config.legend, labelColor: ink, titleColor: ink };
    config.text = { ...config.text, color: ink };
    return result;
  }

  async function draw(chart) {
    const spec = (chart.shoalSpec ??= JSON.parse(chart.querySelector("script").textContent));
    const names = (spec.params ?? []).filter((param) => param.bind).map((param) => param.name), chosen = {};
    if (chart.shoalView) for (const name of names) chosen[name] = chart.shoalView.view.signal(name); // stays chosen
    const wide = chart.parentElement.clientWidth;
    chart.shoalView?.finalize();
    const fresh = dressed(spec, wide, isDark());
    for (const param of fresh.params ?? []) if (param.name in chosen) param.value = chosen[param.name];
    chart.shoalView = await vegaEmbed(chart, fresh, { actions: false, renderer: "svg" });
    chart.shoalWidth = wide;
    const svg = chart.querySelector("svg"), natural = Number(svg.getAttribute("width"));
    svg.style.minWidth = `${Math.min(natural, Math.max(wide, 0.7 * natural))}px`; // smaller, its words could not be read
    for (const input of chart.querySelectorAll("input[type='range']")) // others stand within labels of their own
      input.setAttribute("aria-label", input.closest(".vega-bind")?.querySelector(".vega-bind-name")?.textContent.trim() || "parameter");
  }

  let drawing = Promise.resolve();
  const drawAll = () => {
    drawing = drawing.then(async () => { for (const chart of charts) await draw(chart); return charts.length; });
    window.shoalFigures = drawing;
  };
  const script = document.createElement("script");
  script.src = `${here}vega.js`;
  window.shoalFigures = new Promise((resolve, reject) => {
    script.onload = () => { drawAll(); drawing.then(resolve, reject); };
    script.onerror = () => reject(new Error("vega.js is missing"));
  });
  document.head.append(script);

  const redraw = () => { if (window.vegaEmbed) drawAll(); };
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", redraw);
  new MutationObserver(redraw).observe(document.body, { attributeFilter: ["data-theme"] });
  let waiting = 0;
  addEventListener("resize", () => {
    clearTimeout(waiting);
    waiting = setTimeout(() => { if ([...charts].some((chart) => chart.parentElement.clientWidth !== chart.shoalWidth)) redraw(); }, 150);
  });
})();
