// The explorer. Every chart counts the rows that pass the filters of all others; d3 draws axes and takes drags.
//
// A row is one small whole number a chart, its code. `failed` holds a bit for each chart whose filter a row fails, so that a
// filter changes one bit of every row, and a chart counts the rows without any bit but its own.
(() => {
  "use strict";
  const WIDTH = 340, HEIGHT = 128, LEFT = 38, RIGHT = 6, TOP = 6, BOTTOM = 20, LEVELS = 6;
  const page = document.documentElement;
  const whole = d3.format(","), digits = d3.format(".3~r"), exponent = d3.format(".2~e");
  const rounded = (value) => value !== 0 && Math.abs(value) < 1e-3 ? exponent(value) : digits(value);
  const byId = (id) => document.getElementById(id);

  async function unpack(chart) {
    const text = atob(chart.data), packed = new Uint8Array(text.length);
    for (let i = 0; i < packed.length; i++) packed[i] = text.charCodeAt(i);
    const gunzip = new DecompressionStream("gzip"), writer = gunzip.writable.getWriter();
    writer.write(packed);
    writer.close();
    const buffer = await new Response(gunzip.readable).arrayBuffer();
    return new {1: Uint8Array, 2: Uint16Array, 4: Uint32Array}[chart.bytes](buffer);
  }

  // Kinds of charts. `build` draws what never changes, `draw` the counts; a choice is what a filter keeps: `passes` says which
  // codes it lets through, `write` and `read` are its form in the page's address, and `words` what the page says of it.

  const histogram = {
    build(chart, area) {
      const {edges, log} = chart, bins = edges.length - 1;
      const x = (log ? d3.scaleLog() : d3.scaleLinear()).domain([edges[0], edges[bins]]).range([LEFT, WIDTH - RIGHT]);
      chart.places = edges.map((edge) => Math.round(x(edge) * 10) / 10);
      const svg = area.append("svg").attr("viewBox", `0 0 ${WIDTH} ${HEIGHT}`).attr("tabindex", 0).attr("role", "group")
        .on("keydown", (event) => histogram.step(chart, event));
      chart.svg = svg;
      chart.rows = svg.append("g").attr("class", "axis").attr("transform", `translate(${LEFT},0)`);
      chart.all = svg.append("path").attr("class", "all");
      chart.kept = svg.append("path").attr("class", "kept");
      const axis = d3.axisBottom(x).ticks(log ? 4 : 6, log ? "~g" : chart.whole ? "d" : null).tickSizeOuter(0);
      if (chart.labels.length) axis.tickValues(d3.range(1, bins + 1)).tickFormat((_, i) => chart.labels[i][0]);
      svg.append("g").attr("class", "axis").attr("transform", `translate(0,${HEIGHT - BOTTOM})`).call(axis);
      chart.brush = d3.brushX().extent([[LEFT, 0], [WIDTH - RIGHT, HEIGHT - BOTTOM]]).on("brush end", (event) => {
        if (!event.sourceEvent) return;
        if (!event.selection) return event.type === "end" && choose(chart, null);
        const [from, to] = event.selection.map((place) => d3.bisect(chart.places, place) - 1);
        const ends = chart.places[to] < event.selection[1] ? to : to - 1;
        choose(chart, [Math.max(from, 0), Math.min(Math.max(ends, from), bins - 1)], event.type === "end");
      });
      chart.layer = svg.append("g").attr("class", "brush").call(chart.brush);
      if (chart.totals[bins]) {
        chart.unknown = area.append("button").attr("type", "button").attr("class", "unknown")
          .on("click", () => choose(chart, histogram.unknown(chart) ? null : [bins, bins]));
      }
    },
    draw(chart, counts) {
      const bins = chart.edges.length - 1, known = d3.sum(counts.subarray(0, bins));
      const share = known / Math.max(d3.sum(chart.totals.subarray(0, bins)), 1);
      const high = d3.max([1, d3.max(counts.subarray(0, bins)), share * d3.max(chart.totals.subarray(0, bins))]);
      const y = d3.scaleLinear().domain([0, high]).range([HEIGHT - BOTTOM, TOP]);
      const bars = (height) => chart.places.slice(0, bins).map((left, i) => {
        const top = y(height(i)).toFixed(1), gap = chart.places[i + 1] - left > 4 ? 1 : 0;
        return height(i) > 0 ? `M${left + gap / 2} ${HEIGHT - BOTTOM}V${top}H${(chart.places[i + 1] - gap / 2).toFixed(1)}V${HEIGHT - BOTTOM}Z` : "";
      }).join("");
      chart.kept.attr("d", bars((i) => counts[i]));
      chart.all.attr("d", filtered() ? bars((i) => share * chart.totals[i]) : "");
      chart.rows.call(d3.axisLeft(y).ticks(3, "~s").tickSize(-(WIDTH - LEFT - RIGHT)));
      const says = histogram.summary(chart, counts, known);
      chart.svg.attr("aria-label", `${chart.title}: ${says}. Arrow keys choose a range.`);
      chart.note.textContent = chart.choice ? histogram.words(chart) : says;
      if (chart.unknown) chart.unknown.attr("aria-pressed", histogram.unknown(chart)).text(`unknown: ${whole(counts[bins])}`);
      const at = chart.choice && !histogram.unknown(chart) ? [chart.places[chart.choice[0]], chart.places[chart.choice[1] + 1]] : null;
      if (!chart.dragged) chart.layer.call(chart.brush.move, at);
    },
    summary(chart, counts, known) {
      if (!known) return "no sample";
      const bins = chart.edges.length - 1;
      const at = [0.05, 0.5, 0.95].map((share) => {
        let sum = 0;
        for (let i = 0; i < bins; i++) if ((sum += counts[i]) >= share * known) return i;
      });
      const [low, middle, high] = at.map((bin) => histogram.value(chart, bin));
      return low === high ? `${middle}${histogram.unit(chart)}` : `median ${middle}, nine in ten ${low} to ${high}${histogram.unit(chart)}`;
    },
    unit: (chart) => chart.unit ? ` ${chart.unit}` : "",
    value(chart, bin) {
      if (chart.labels.length) return chart.labels[bin];
      const [low, high] = [chart.edges[bin], chart.edges[bin + 1]];
      return chart.whole ? String((low + high) / 2) : rounded(chart.log ? Math.sqrt(low * high) : (low + high) / 2);
    },
    ends(chart) {
      const [from, to] = chart.choice;
      return chart.whole ? [chart.edges[from] + 0.5, chart.edges[to] + 0.5].map(String) : [chart.edges[from], chart.edges[to + 1]].map(rounded);
    },
    unknown: (chart) => chart.choice !== null && chart.choice[0] === chart.edges.length - 1,
    words(chart) {
      if (histogram.unknown(chart)) return "unknown";
      const [from, to] = chart.labels.length ? chart.choice.map((bin) => chart.labels[bin]) : histogram.ends(chart);
      return (from === to ? from : `${from} to ${to}`) + histogram.unit(chart);
    },
    passes: (chart, code) => chart.choice[0] <= code && code <= chart.choice[1],
    write: (chart) => histogram.unknown(chart) ? "" : histogram.ends(chart).join(".."),
    read(chart, text) {
      const bins = chart.edges.length - 1;
      if (text === "") return [bins, bins];
      const ends = text.split("..").map(Number);
      const [low, high] = ends.length === 1 ? [ends[0], ends[0]] : ends;
      if (!(low <= high) || ends.length > 2) return null;
      // The nearest edges: the address has three digits of them.
      const [a, b] = chart.whole ? [low - 0.5, high + 0.5] : [low, high];
      const near = (value) => d3.leastIndex(chart.edges, (one, other) => Math.abs(one - value) - Math.abs(other - value));
      const from = Math.min(near(a), bins - 1);
      return [from, Math.min(Math.max(near(b) - 1, from), bins - 1)];
    },
    step(chart, event) {
      const move = {ArrowLeft: -1, ArrowRight: 1}[event.key], bins = chart.edges.length - 1;
      if (!move) return;
      event.preventDefault();
      const first = d3.maxIndex(count(chart).subarray(0, bins));
      const [from, to] = chart.choice && !histogram.unknown(chart) ? chart.choice : [first - move, first - move];
      const moved = event.shiftKey ? [from, Math.max(to + move, from)] : [from + move, to + move];
      if (moved[0] >= 0 && moved[1] < bins) choose(chart, moved);
    },
  };

  const bars = {
    build(chart, area) {
      const list = area.append("ul").attr("class", "bars");
      chart.items = list.selectAll("li").data(chart.values).join("li").append("button").attr("type", "button")
        .on("click", (event, value) => bars.toggle(chart, chart.values.indexOf(value)));
      chart.items.append("span").attr("class", "name").text((value) => value);
      chart.numbers = chart.items.append("span").attr("class", "number");
      const tracks = chart.items.append("span").attr("class", "track");
      chart.parts = chart.by ? byName[chart.by] : null;
      const parts = chart.parts ? d3.range(chart.parts.size) : [0];
      chart.segments = tracks.selectAll("i").data(parts).join("i").attr("class", (part) => `p${part % 6}`);
      chart.marks = tracks.append("b");
      if (parts.length > 1) {
        const key = area.insert("ul", "ul").attr("class", "key").attr("aria-hidden", "true");
        key.selectAll("li").data(parts).join("li").html((part) => `<i class="p${part % 6}"></i>`).append("span").text((part) => chart.parts.values[part]);
      }
    },
    sums(chart, counts, size) {
      if (!chart.sets.length) return counts;
      const sums = new Float64Array(size);
      chart.sets.forEach((values, code) => values.forEach((value) => sums[value] += counts[code]));
      return sums;
    },
    draw(chart, counts) {
      const size = chart.values.length, sums = bars.sums(chart, counts, size), totals = bars.sums(chart, chart.totals, size);
      const share = d3.sum(counts) / Math.max(d3.sum(chart.totals), 1);
      const high = d3.max([1, d3.max(sums), share * d3.max(totals)]);
      const percent = (value) => `${(100 * value / high).toFixed(2)}%`;
      if (chart.parts) {
        const parts = chart.parts.size, pairs = countPairs(chart, chart.parts);
        const split = d3.range(parts).map((part) => bars.sums(chart, pairs.subarray(part * chart.size, (part + 1) * chart.size), size));
        chart.items.each(function (_, item) {
          this.querySelectorAll("i").forEach((segment, part) => segment.style.width = percent(split[part][item]));
        });
      } else {
        chart.items.each(function (_, item) { this.querySelector("i").style.width = percent(sums[item]); });
      }
      chart.marks.attr("hidden", filtered() ? null : "").each(function (_, i) { this.style.left = percent(share * totals[i]); });
      chart.numbers.text((_, i) => whole(sums[i]));
      chart.items.attr("aria-pressed", (_, i) => chart.choice !== null && chart.choice.has(i)).classed("none", (_, i) => sums[i] === 0);
      const present = sums.reduce((sum, value) => sum + (value > 0), 0);
      chart.note.textContent = chart.choice ? bars.words(chart) : present === size ? (size === 1 ? "1 value" : `${size} values`) : `${present} of ${size} values`;
    },
    toggle(chart, value) {
      const next = new Set(chart.choice);
      if (!next.delete(value)) next.add(value);
      choose(chart, next.size ? next : null);
    },
    words: (chart) => [...chart.choice].map((value) => chart.values[value]).join(" or "),
    passes: (chart, code) => chart.sets.length ? chart.sets[code].some((value) => chart.choice.has(value)) : chart.choice.has(code),
    write: (chart) => [...chart.choice].map((value) => value === chart.absent ? "" : encodeURIComponent(chart.values[value])).join(","),
    read(chart, text) {
      const found = text.split(",").map((word) => word === "" ? chart.absent : chart.values.findIndex((value, i) => i !== chart.absent && value === decodeURIComponent(word)));
      const known = found.filter((value) => value !== null && value >= 0);
      return known.length ? new Set(known) : null;
    },
  };

  const map = {
    build(chart, area) {
      const {west, north, step, columns, rows} = chart;
      // One unit is a cell.
      const svg = area.append("svg").attr("class", "world").attr("viewBox", `0 0 ${columns} ${rows}`).attr("role", "img");
      chart.svg = svg;
      svg.append("rect").attr("class", "sea").attr("width", columns).attr("height", rows);
      svg.append("use").attr("href", "#land").attr("x", (-180 - west) / step).attr("y", (north - 90) / step).attr("width", 360 / step).attr("height", 180 / step);
      chart.levels = d3.range(LEVELS).map((level) => svg.append("path").attr("class", `level${level}`));
      chart.brush = d3.brush().extent([[0, 0], [columns, rows]]).on("brush end", (event) => {
        if (!event.sourceEvent) return;
        if (!event.selection) return event.type === "end" && choose(chart, null);
        const [[left, top], [right, bottom]] = event.selection;
        choose(chart, [Math.floor(left), Math.floor(top), Math.ceil(right) - 1, Math.ceil(bottom) - 1], event.type === "end");
      });
      chart.layer = svg.append("g").attr("class", "brush").call(chart.brush);
      const cells = columns * rows;
      chart.legend = area.append("p").attr("class", "legend soft");
      if (chart.totals[cells]) {
        chart.unknown = area.append("button").attr("type", "button").attr("class", "unknown")
          .on("click", () => choose(chart, map.unknown(chart) ? null : []));
      }
    },
    draw(chart, counts) {
      const cells = chart.columns * chart.rows, most = Math.max(d3.max(counts.subarray(0, cells)), 1), paths = d3.range(LEVELS).map(() => "");
      let occupied = 0;
      for (let cell = 0; cell < cells; cell++) {
        if (!counts[cell]) continue;
        occupied++;
        const level = most === 1 ? LEVELS - 1 : Math.min(Math.floor(LEVELS * Math.log(counts[cell]) / Math.log(most)), LEVELS - 1);
        paths[level] += `M${cell % chart.columns} ${Math.floor(cell / chart.columns)}h1v1h-1z`;
      }
      chart.levels.forEach((path, level) => path.attr("d", paths[level]));
      const says = `${whole(d3.sum(counts.subarray(0, cells)))} samples in ${whole(occupied)} cells of ${rounded(chart.step)} degrees, at most ${whole(most)} in one`;
      chart.svg.attr("aria-label", `Map: ${says}`);
      chart.note.textContent = chart.choice ? map.words(chart) : says;
      chart.legend.html(`1 ${d3.range(LEVELS).map((level) => `<i class="level${level}"></i>`).join("")} ${whole(most)} a cell`);
      if (chart.unknown) chart.unknown.attr("aria-pressed", map.unknown(chart)).text(`place unknown: ${whole(counts[cells])}`);
      const at = chart.choice && !map.unknown(chart) ? [[chart.choice[0], chart.choice[1]], [chart.choice[2] + 1, chart.choice[3] + 1]] : null;
      if (!chart.dragged) chart.layer.call(chart.brush.move, at);
    },
    unknown: (chart) => chart.choice !== null && chart.choice.length === 0,
    ends(chart) {
      const [left, top, right, bottom] = chart.choice, lon = (cell) => rounded(chart.west + cell * chart.step), lat = (cell) => rounded(chart.north - cell * chart.step);
      return [lon(left), lon(right + 1), lat(bottom + 1), lat(top)];
    },
    words(chart) {
      if (map.unknown(chart)) return "place unknown";
      const [west, east, south, north] = map.ends(chart);
      return `longitude ${west} to ${east}, latitude ${south} to ${north}`;
    },
    passes(chart, code) {
      if (map.unknown(chart) || code === chart.columns * chart.rows) return map.unknown(chart) && code === chart.columns * chart.rows;
      const [left, top, right, bottom] = chart.choice, column = code % chart.columns, row = Math.floor(code / chart.columns);
      return left <= column && column <= right && top <= row && row <= bottom;
    },
    write(chart) {
      if (map.unknown(chart)) return "";
      const [west, east, south, north] = map.ends(chart);
      return `${west}..${east},${south}..${north}`;
    },
    read(chart, text) {
      if (text === "") return [];
      const ends = text.split(",").map((part) => part.split("..").map(Number));
      if (ends.length !== 2 || ends.some(([low, high]) => !(low < high))) return null;
      const [[west, east], [south, north]] = ends, cell = (value, most) => Math.min(Math.max(Math.round(value), 0), most);
      const left = cell((west - chart.west) / chart.step, chart.columns - 1), top = cell((chart.north - north) / chart.step, chart.rows - 1);
      const right = cell((east - chart.west) / chart.step - 1, chart.columns - 1), bottom = cell((chart.north - south) / chart.step - 1, chart.rows - 1);
      return [left, top, Math.max(right, left), Math.max(bottom, top)];
    },
  };

  const kinds = {histogram, bars, map}, byName = {};
  let charts = [], rows = 0, failed, waiting = false;

  const filtered = () => charts.some((chart) => chart.choice !== null);

  function count(chart) {
    const counts = new Uint32Array(chart.size), others = ~chart.bit, codes = chart.codes;
    for (let row = 0; row < rows; row++) if ((failed[row] & others) === 0) counts[codes[row]]++;
    return counts;
  }

  function countPairs(chart, parts) {
    const counts = new Uint32Array(chart.size * parts.size), others = ~chart.bit;
    for (let row = 0; row < rows; row++) if ((failed[row] & others) === 0) counts[parts.codes[row] * chart.size + chart.codes[row]]++;
    return counts;
  }

  function apply(chart, choice) {
    chart.choice = choice;
    const passes = new Uint8Array(chart.size).map((_, code) => choice === null || kinds[chart.kind].passes(chart, code) ? 1 : 0);
    for (let row = 0; row < rows; row++) passes[chart.codes[row]] ? failed[row] &= ~chart.bit : failed[row] |= chart.bit;
  }

  // Set a filter and show what follows. While a drag goes on the brush is left to the hand that holds it.
  function choose(chart, choice, done = true) {
    apply(chart, choice);
    chart.dragged = !done;
    if (done) {
      if (location.protocol !== "about:") history.replaceState(null, "", address());
      draw();
    } else if (!waiting) {
      waiting = true;
      requestAnimationFrame(() => { waiting = false; draw(); });
    }
  }

  function address() {
    const parts = charts.filter((chart) => chart.choice !== null).map((chart) => `${chart.name}=${kinds[chart.kind].write(chart)}`);
    return parts.length ? `#${parts.join("&")}` : location.pathname + location.search;
  }

  // Filters from the page's address; parts that name no chart or no value of one are left out.
  function readAddress() {
    const parts = new Map(location.hash.slice(1).split("&").filter((part) => part.includes("=")).map((part) => [part.slice(0, part.indexOf("=")), part.slice(part.indexOf("=") + 1)]));
    if (!parts.size && location.hash.length > 1) return; // the address of a section
    for (const chart of charts) {
      let choice = null;
      if (parts.has(chart.name)) try { choice = kinds[chart.kind].read(chart, parts.get(chart.name)); } catch { choice = null; }
      if (choice !== null || chart.choice !== null) apply(chart, choice);
    }
    draw();
  }

  function draw() {
    let kept = 0;
    for (let row = 0; row < rows; row++) if (failed[row] === 0) kept++;
    const some = filtered();
    document.querySelector("[role=status]").textContent = some ? `${whole(kept)} of ${whole(rows)} samples (${d3.format(".3~g")(100 * kept / Math.max(rows, 1))} %)` : `${whole(rows)} samples`;
    byId("clear").hidden = !some;
    for (const chart of charts) {
      chart.clear.hidden = chart.choice === null;
      chart.area.classed("filtered", chart.choice !== null);
      kinds[chart.kind].draw(chart, count(chart));
    }
    const pictures = [...document.querySelectorAll("[data-row]")];
    for (const picture of pictures) picture.hidden = failed[+picture.dataset.row] !== 0;
    const shown = pictures.filter((picture) => !picture.hidden).length;
    byId("shown").textContent = some ? `${shown} of the ${pictures.length} chips, which were drawn at random, pass the filters.` : `${pictures.length} chips, drawn at random.`;
  }

  function clearAll() {
    charts.forEach((chart) => chart.choice !== null && apply(chart, null));
    if (charts.length) choose(charts[0], null);
  }

  async function start() {
    const data = JSON.parse(byId("rows").textContent);
    rows = data.rows;
    failed = new Uint32Array(rows);
    const codes = await Promise.all(data.charts.map(unpack));
    charts = data.charts.map((chart, i) => {
      const node = byId(`chart-${chart.name}`);
      return Object.assign(chart, {
        codes: codes[i], data: null, bit: 1 << i, choice: null, area: d3.select(node),
        note: node.querySelector(".chosen span"), clear: node.querySelector(".clear"),
      });
    });
    for (const chart of charts) byName[chart.name] = chart;
    for (const chart of charts) {
      chart.totals = count(chart);
      kinds[chart.kind].build(chart, chart.area);
      chart.clear.addEventListener("click", () => choose(chart, null));
      chart.clear.setAttribute("aria-label", `clear the filter of ${chart.title}`);
    }
    byId("clear").addEventListener("click", clearAll);
    addEventListener("keydown", (event) => event.key === "Escape" && clearAll());
    addEventListener("hashchange", readAddress);
    if (location.hash.length > 1) readAddress();
    draw();
    page.dataset.drawn = "yes";
  }

  start().catch((error) => {
    byId("shown").insertAdjacentText("beforebegin", `The charts cannot be drawn: ${error.message}. Use a browser of 2023 or later.`);
    console.error(error);
  });
})();
