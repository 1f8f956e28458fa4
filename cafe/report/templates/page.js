"use strict";
(() => {
  const read = (id) => JSON.parse(document.getElementById(id).textContent);
  const figures = read("figures");
  const cells = read("cells");
  const dark = matchMedia("(prefers-color-scheme: dark)");
  // Okabe and Ito's colours, which every eye tells apart, tuned to either ground
  const palettes = {
    light: ["#0072b2", "#d55e00", "#009e73", "#b8568c", "#c98a00", "#2f8fce", "#6f5bb5", "#8a6a4f"],
    dark: ["#56b4e9", "#ff8a4c", "#2fc79a", "#e39bc4", "#f0c243", "#8ccfff", "#b3a2ef", "#cfae91"],
  };
  let printing = false;

  const theme = () => {
    const style = getComputedStyle(document.documentElement);
    const named = (name) => style.getPropertyValue(`--${name}`).trim();
    const set = document.documentElement.dataset.theme;
    const night = !printing && (set ? set === "dark" : dark.matches);
    const colours = { ink: named("ink"), muted: named("muted"), grid: named("grid"),
      paper: named("paper") };
    if (printing) Object.assign(colours, { ink: "#000", muted: "#444", grid: "#ccc", paper: "#fff" });
    palettes[night ? "dark" : "light"].forEach((value, place) => { colours[place] = value; });
    return colours;
  };

  // every "@name" of a figure becomes a colour of the theme
  const painted = (value, colours) => {
    if (typeof value === "string") return value[0] === "@" ? colours[value.slice(1)] ?? value : value;
    if (Array.isArray(value)) return value.map((item) => painted(item, colours));
    if (value && typeof value === "object") {
      return Object.fromEntries(Object.entries(value).map(([k, v]) => [k, painted(v, colours)]));
    }
    return value;
  };

  const layoutOf = (own, colours) => {
    const axis = { gridcolor: colours.grid, linecolor: colours.grid, zerolinecolor: colours.muted,
      tickcolor: colours.grid, automargin: true };
    const layout = {
      paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)",
      font: { family: getComputedStyle(document.body).fontFamily, size: 13, color: colours.ink },
      margin: { l: 60, r: 16, t: 34, b: 56 }, hovermode: "closest",
      hoverlabel: { bgcolor: colours.paper, bordercolor: colours.muted, namelength: -1,
        font: { family: getComputedStyle(document.body).fontFamily, color: colours.ink } },
      ...painted(own, colours),
    };
    for (const name of Object.keys(layout)) {
      if (/^[xy]axis/.test(name)) layout[name] = { ...axis, ...layout[name] };
    }
    return layout;
  };

  const config = { displayModeBar: false, responsive: true, displaylogo: false };
  const draw = () => Promise.all(figures.map(({ id, data, layout }) => {
    const colours = theme();
    return Plotly.react(id, painted(data, colours), layoutOf(layout, colours), config);
  }));

  const numbers = (value) => (value === null ? "" : value.toFixed(2));
  const show = (run, key) => {
    const panel = document.getElementById(`${run}-panel`);
    const rows = cells[run][key];
    if (!rows) return;
    const [shots, ratio, width] = key.split("|");
    panel.replaceChildren();
    const title = document.createElement("p");
    const mean = rows.reduce((sum, row) => sum + row.val, 0) / rows.length;
    title.append(Object.assign(document.createElement("strong"),
      { textContent: `ratio ${ratio}, bottleneck ${width}, ${shots} shot${shots === "1" ? "" : "s"}` }),
    ` — mean validation accuracy ${mean.toFixed(2)} %`);
    const table = document.createElement("table");
    const names = { seed: "seed", lr: "learning rate", val: "validation %",
      val_nll: "negative log-likelihood", test: "test %" };
    const head = table.createTHead().insertRow();
    for (const name of Object.values(names)) {
      head.append(Object.assign(document.createElement("th"), { textContent: name, scope: "col" }));
    }
    for (const row of rows) {
      const line = table.createTBody().insertRow();
      for (const name of Object.keys(names)) {
        line.insertCell().textContent = name === "seed" || name === "lr" ? row[name] : numbers(row[name]);
      }
    }
    panel.append(title, table);
    if (rows.every((row) => row.test === null)) {
      panel.append(Object.assign(document.createElement("p"),
        { textContent: "Not tested: validation chose another configuration." }));
    }
    for (const button of document.querySelectorAll(`button[data-run="${run}"]`)) {
      button.setAttribute("aria-pressed", String(button.dataset.cell === key));
    }
  };

  const listen = () => {
    for (const { id, run } of figures) {
      const plot = document.getElementById(id);
      if (run) {
        plot.on("plotly_click", (event) => {
          const point = event.points.find(({ customdata }) => typeof customdata === "string");
          if (point) show(run, point.customdata);
        });
      }
    }
    for (const button of document.querySelectorAll("button[data-cell]")) {
      button.addEventListener("click", () => show(button.dataset.run, button.dataset.cell));
    }
  };

  draw().then(() => {
    listen();
    document.documentElement.dataset.drawn = "yes";
  });
  dark.addEventListener("change", draw);
  addEventListener("beforeprint", () => { printing = true; draw(); });
  addEventListener("afterprint", () => { printing = false; draw(); });
})();
