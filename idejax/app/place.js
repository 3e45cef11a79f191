// Drags bubbles, and draws the boxes in which people stand, on the board of a panel (stage.board). It only changes
// the lines of text below the board; the page saves those. `element` is the board's element, given by Gradio.
const board = element.querySelector(".board");
if (board) {
  const { panel, part } = JSON.parse(board.dataset.facts);
  const field = (name) => document.querySelector(`#${name}-${panel} textarea`);
  const read = (name) => (field(name)?.value ?? "").split("\n").filter((x) => x.trim()).map((x) => x.split("|").map((y) => y.trim()));
  const write = (name, rows) => {
    const area = field(name);
    area.value = rows.map((x) => x.join(" | ")).join("\n");
    area.dispatchEvent(new Event("input", { bubbles: true }));
  };
  const within = (v) => Math.min(Math.max(v, 0), 1);
  const at = (e) => {  // a pointer's place, as shares of the board
    const r = board.getBoundingClientRect();
    return [within((e.clientX - r.left) / r.width), within((e.clientY - r.top) / r.height)];
  };
  const toPicture = (x, y) => [within(part[0] + x * (part[2] - part[0])), within(part[1] + y * (part[3] - part[1]))];
  const toBoard = (x, y) => [(x - part[0]) / (part[2] - part[0]), (y - part[1]) / (part[3] - part[1])];
  const add = (kind, text) => {
    const mark = document.createElement("div");
    mark.className = kind;
    mark.textContent = text;
    board.append(mark);
    return mark;
  };
  const shape = (mark, a, b) => {
    const [x0, y0, x1, y1] = [Math.min(a[0], b[0]), Math.min(a[1], b[1]), Math.max(a[0], b[0]), Math.max(a[1], b[1])];
    Object.assign(mark.style, { left: `${100 * x0}%`, top: `${100 * y0}%`, width: `${100 * (x1 - x0)}%`, height: `${100 * (y1 - y0)}%` });
    return [x0, y0, x1, y1];
  };
  let person = "";

  function show() {
    board.querySelectorAll(".mark, .box").forEach((x) => x.remove());
    for (const [name, place] of read("regions")) {
      const v = (place ?? "").split(",").map(Number);
      if (v.length === 4 && v.every(Number.isFinite)) shape(add("box", name), toBoard(v[0], v[1]), toBoard(v[2], v[3]));
    }
    const rows = read("bubbles");
    rows.forEach((row, k) => {
      const mark = add(`mark ${row[0]}`, row[2] ?? "");
      const moved = (row[3] ?? "").split(",").map(Number);
      const placed = moved.length === 2 && moved.every(Number.isFinite);
      const spot = placed ? moved : [0.5, 0.1 + (0.8 * k) / Math.max(rows.length, 2)];
      if (!placed) mark.classList.add("free");
      const put = () => Object.assign(mark.style, { left: `${100 * spot[0]}%`, top: `${100 * spot[1]}%` });
      const keep = () => {
        const all = read("bubbles");
        all[k] = [...all[k].slice(0, 3), spot.map((v) => v.toFixed(2)).join(",")];
        mark.classList.remove("free");
        write("bubbles", all);
      };
      put();
      mark.tabIndex = 0;
      mark.setAttribute("role", "button");
      mark.setAttribute("aria-label", `Move: ${row[2] ?? ""}`);
      mark.addEventListener("pointerdown", (e) => {
        if (person) return;
        e.stopPropagation();
        mark.setPointerCapture(e.pointerId);
        mark.onpointermove = (m) => { [spot[0], spot[1]] = at(m); put(); };
        mark.onpointerup = () => { mark.onpointermove = mark.onpointerup = null; keep(); };
      });
      mark.addEventListener("keydown", (e) => {
        const step = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[e.key];
        if (!step) return;
        e.preventDefault();
        spot[0] = within(spot[0] + 0.02 * step[0]);
        spot[1] = within(spot[1] + 0.02 * step[1]);
        put();
        keep();
      });
    });
  }

  const choose = (name) => {
    person = name;
    board.classList.toggle("drawing", Boolean(name));
    element.querySelectorAll(".who").forEach((b) => b.setAttribute("aria-pressed", String(b.dataset.person === name)));
  };
  element.querySelectorAll(".who").forEach((b) => b.addEventListener("click", () => choose(person === b.dataset.person ? "" : b.dataset.person)));
  board.addEventListener("pointerdown", (e) => {
    if (!person) return;
    e.preventDefault();
    const from = at(e), box = add("box", person);
    let sides = null;
    board.setPointerCapture(e.pointerId);
    board.onpointermove = (m) => { sides = shape(box, from, at(m)); };
    board.onpointerup = () => {
      board.onpointermove = board.onpointerup = null;
      if (sides && sides[2] - sides[0] > 0.04 && sides[3] - sides[1] > 0.04) {
        const place = [...toPicture(sides[0], sides[1]), ...toPicture(sides[2], sides[3])].map((v) => v.toFixed(2)).join(",");
        write("regions", [...read("regions").filter((row) => row[0] !== person), [person, place]]);
      }
      choose("");
      show();
    };
  });
  // The text fields are there a moment later than the board, and the user may edit them.
  const wait = setInterval(() => {
    if (!field("bubbles") || !field("regions")) return;
    clearInterval(wait);
    for (const name of ["bubbles", "regions"]) field(name).addEventListener("change", show);
    show();
  }, 100);
  setTimeout(() => clearInterval(wait), 20000);
}
