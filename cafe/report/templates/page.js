"use strict";
(() => {
  const read = (id) => JSON.parse(document.getElementById(id).textContent);
  const figures = read("figures");
  const cells = read("cells");
  const dark = matchMedia("(prefers-color-scheme: dark)");
  // Okabe and Ito's colours, which every eye tells apart, tuned to either ground
  const palettes = {
    light: ["#0072b2", "#d55e00", "#009e73", "#b8568c", "#c98a00", "#6f5bb5", "#2f8fce", "#8a6a4f"],
    dark: ["#56b4e9", "#ff8a4c", "#2fc79a", "#e39bc4", "#f0c243", "#b3a2ef", "#8ccfff", "#cfae91"],
  };
  let printing = false;

  const theme = () => {
    const style = getComputedStyle(document.documentElement);
    const named = (name) => style.getPropertyValue(`--${name}`).trim();
    const set = document.documentElement.dataset.theme;
    const night = !printing && (set ? set === "dark" : dark.matches);
    const colours = { ink: named("ink"), muted: named("muted"), grid: named("grid"),
      paper: named("paper"), raised: named("raised"), rest: named("rest") };
    if (printing) {
      Object.assign(colours, { ink: "#000", muted: "#444", grid: "#ccc", paper: "#fff",
        raised: "#f4f4f4", rest: "#ccc" });
    }
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
      margin: { l: 48, r: 12, t: 12, b: 48 }, hovermode: "closest",
      hoverlabel: { bgcolor: colours.paper, bordercolor: colours.muted, namelength: -1,
        font: { family: getComputedStyle(document.body).fontFamily, color: colours.ink } },
      ...painted(own, colours),
    };
    for (const name of Object.keys(layout)) {
      if (!/^[xy]axis/.test(name)) continue;
      layout[name] = { ...axis, ...layout[name] };
      if (name === "yaxis" && own.meta?.wide && innerWidth >= 600) layout[name].ticktext = own.meta.wide;
      if (layout[name].ticktext?.length > 8) layout[name].tickfont = { size: innerWidth < 600 ? 9 : 12 };
    }
    return layout;
  };

  const config = { displayModeBar: false, responsive: true, displaylogo: false };
  // a trace whose button is off is grey or not there; grey ones are drawn below the others
  const shown = (trace) => {
    if (!trace.meta || trace.meta.on) return trace;
    if (trace.meta.off === "hidden") return { ...trace, visible: false };
    return { ...trace, error_y: { visible: false }, line: { ...trace.line, color: "@rest", width: 1 },
      marker: { ...trace.marker, color: "@rest", size: 4 } };
  };
  const isOff = ({ meta }) => meta && !meta.on;
  const drawOne = ({ id, data, layout }) => {
    const colours = theme();
    const ordered = [...data.filter(isOff), ...data.filter((trace) => !isOff(trace))].map(shown);
    return Plotly.react(id, painted(ordered, colours),
      { ...layoutOf(layout, colours), showlegend: false }, config);
  };
  const draw = () => Promise.all(figures.map(drawOne)).then(label);

  // legends are plain HTML: they wrap on any screen, and each name is a button
  const legends = [...document.querySelectorAll(".legend")].map((place) => {
    const plots = place.dataset.plots.split(" ");
    return { place, members: figures.filter(({ id }) => plots.includes(id)) };
  });
  const text = (name) => new DOMParser().parseFromString(name, "text/html").body.textContent;
  const toggle = (members, name) => {
    for (const figure of members) {
      const traces = figure.data.filter((trace) => trace.meta && trace.name === name);
      for (const trace of traces) trace.meta.on = !trace.meta.on;
      if (traces.length) drawOne(figure);
    }
    label();
  };
  const makeLegends = () => {
    for (const { place, members } of legends) {
      const named = (members[0]?.data ?? []).filter(({ meta }) => meta);
      if (named.length < 2) continue;
      for (const { name, mode, marker } of named) {
        const button = document.createElement("button"), key = document.createElement("i");
        if (mode === "markers") key.className = marker.symbol ?? "circle"; // a map tells classes apart by it too
        button.type = "button";
        button.append(key, text(name));
        button.addEventListener("click", () => toggle(members, name));
        place.append(button);
      }
    }
  };
  function label() {
    const colours = theme();
    for (const { place, members } of legends) {
      const named = (members[0]?.data ?? []).filter(({ meta }) => meta);
      [...place.children].forEach((button, number) => {
        const { meta, line, marker } = named[number];
        const colour = meta.on ? line?.color ?? marker.color : "@rest";
        button.firstChild.style.background = painted(colour, colours);
        button.setAttribute("aria-pressed", String(meta.on));
      });
    }
  }

  const choosePair = (id, run, { customdata, x, y, z }) => {
    for (const item of document.querySelectorAll(`#${run} [data-pair]`)) {
      const chosen = item.dataset.pair === customdata;
      item.toggleAttribute("aria-current", chosen);
      if (chosen) item.parentNode.scrollTop = item.offsetTop - item.parentNode.offsetTop;
    }
    document.getElementById(`${run}-pair`).textContent =
      `${z.toFixed(1)} % of ${text(y)} are taken for ${text(x)}.`;
  };

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
    for (const figure of figures) {
      const { id, run } = figure;
      document.getElementById(id).on("plotly_click", ({ points: [point, ...more] }) => {
        const cell = [point, ...more].find(({ customdata }) => typeof customdata === "string");
        if (id === `${run}-confusions`) choosePair(id, run, cell);
        else if (cell) show(run, cell.customdata);
        else if (point.data.meta?.off === "grey") toggle([figure], point.data.name);
      });
    }
    for (const button of document.querySelectorAll("button[data-cell]")) {
      button.addEventListener("click", () => show(button.dataset.run, button.dataset.cell));
    }
  };

  // a click on a column sorts the rows by it; those of one group stay together
  const valueOf = (row, column) => row.cells[column]?.textContent.trim() ?? "";
  const compare = (a, b) => {
    const [x, y] = [parseFloat(a.replaceAll(",", "")), parseFloat(b.replaceAll(",", ""))];
    if (!Number.isNaN(x) && !Number.isNaN(y)) return x - y;
    return Number.isNaN(x) - Number.isNaN(y) || a.localeCompare(b);
  };
  const sortBy = (head, column) => {
    const body = head.closest("table").tBodies[0];
    const isText = [...body.rows].some((row) => /^[^\d+−-]/.test(valueOf(row, column)) && !row.querySelector(".group"));
    const down = head.ariaSort ? head.ariaSort === "ascending" : !isText; // numbers: the highest first
    for (const other of head.parentNode.cells) other.removeAttribute("aria-sort");
    head.ariaSort = down ? "descending" : "ascending";
    const groups = [[]];
    for (const row of body.rows) {
      if (row.querySelector(".group")) groups.push([row], []);
      else groups.at(-1).push(row);
    }
    for (const rows of groups) {
      const full = rows.filter((row) => valueOf(row, column));
      full.sort((a, b) => compare(valueOf(a, column), valueOf(b, column)) * (down ? -1 : 1));
      body.append(...full, ...rows.filter((row) => !full.includes(row)));
    }
  };
  const makeSortable = () => {
    for (const table of document.querySelectorAll(".scroll > table")) {
      if (table.tBodies[0].rows.length < 2 || table.querySelector("td button")) continue;
      [...table.tHead.rows[0].cells].forEach((head, column) => {
        const button = document.createElement("button");
        button.type = "button";
        button.title = "Sort by this column";
        button.append(...head.childNodes);
        button.addEventListener("click", () => sortBy(head, column));
        head.append(button);
      });
    }
  };

  makeLegends();
  makeSortable();
  draw().then(() => {
    listen();
    document.documentElement.dataset.drawn = "yes";
  });
  dark.addEventListener("change", draw);
  addEventListener("beforeprint", () => { printing = true; draw(); });
  addEventListener("afterprint", () => { printing = false; draw(); });
})();
