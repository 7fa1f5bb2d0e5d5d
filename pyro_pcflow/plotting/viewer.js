(function () {
  "use strict";

  const data = JSON.parse(document.getElementById("data").textContent);
  const scenes = data.scenes;
  const last = Math.max(...scenes.map((scene) => scene.frames)) - 1;
  const find = (id) => document.getElementById(id);
  const canvas = find("view"), stage = find("stage"), slider = find("time"), play = find("play"), at = find("at");
  const start = { azim: data.azim, elev: data.elev, zoom: 1 };
  const state = { ...start, frame: 0, playing: false, draws: 0, error: "" };
  const HOLD = 0.9;
  let gl, program, where, buffers, dirty = false, clock = 0, rest = 0;

  // What a browser test may look at and steer.
  window.pcflowViewer = {
    state,
    points: scenes.map((scene) => scene.points),
    frames: last + 1,
    show: (frame) => show(frame),
    pause: () => setPlaying(false),
  };

  const VERTEX = `
    attribute vec3 before, after, tint;
    uniform mat3 turn;
    uniform vec3 center, pivot;
    uniform float share, step, radius, size;
    uniform vec2 fit;
    varying vec3 color;
    varying float depth;
    void main() {
      vec3 p = turn * ((mix(before, after, share) * step + center - pivot) / radius);
      float w = max(1.0 - 0.2 * p.z, 0.15);
      gl_Position = vec4(p.xy * fit, clamp(-0.2 * p.z, -0.99, 0.99) * w, w);
      gl_PointSize = max(size / w, 1.5);
      color = tint;
      depth = p.z;
    }`;
  // The same light and haze as in the films and sheets.
  const FRAGMENT = `
    precision mediump float;
    uniform vec3 ground;
    uniform float relief;
    varying vec3 color;
    varying float depth;
    void main() {
      vec2 c = gl_PointCoord * 2.0 - 1.0;
      float d = dot(c, c);
      if (d > 1.0) discard;
      float light = max(dot(vec3(c.x, -c.y, sqrt(1.0 - d)), vec3(-0.40, 0.55, 0.733)), 0.0);
      float shade = 1.0 + relief * (0.55 * light - 0.42);
      vec3 lit = mix(color * min(shade, 1.0), vec3(1.0), max(shade - 1.0, 0.0));
      float haze = relief * 0.62 * pow(clamp((0.8 - depth) / 1.7, 0.0, 1.0), 1.3);
      gl_FragColor = vec4(mix(lit, ground, haze), 1.0);
    }`;

  function fail(text) {
    state.error = text;
    state.playing = false;
    const message = find("message");
    message.textContent = text;
    message.hidden = false;
    for (const id of ["play", "time", "at", "reset"]) find(id).hidden = true;
  }

  function bytes(text) {
    return Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
  }

  function shader(kind, source) {
    const made = gl.createShader(kind);
    gl.shaderSource(made, source);
    gl.compileShader(made);
    gl.attachShader(program, made);
  }

  function upload(array) {
    const buffer = gl.createBuffer();
    gl.bindBuffer(gl.ARRAY_BUFFER, buffer);
    gl.bufferData(gl.ARRAY_BUFFER, array, gl.STATIC_DRAW);
    return buffer;
  }

  function init() {
    gl = canvas.getContext("webgl", { antialias: true, alpha: false });
    if (!gl) return false;
    program = gl.createProgram();
    shader(gl.VERTEX_SHADER, VERTEX);
    shader(gl.FRAGMENT_SHADER, FRAGMENT);
    gl.linkProgram(program);
    if (!gl.getProgramParameter(program, gl.LINK_STATUS) && !gl.isContextLost()) return false;
    gl.useProgram(program);
    gl.enable(gl.DEPTH_TEST);
    where = {};
    for (const name of ["before", "after", "tint"]) {
      where[name] = gl.getAttribLocation(program, name);
      gl.enableVertexAttribArray(where[name]);
    }
    for (const name of ["turn", "center", "pivot", "share", "step", "radius", "size", "fit", "ground", "relief"])
      where["u_" + name] = gl.getUniformLocation(program, name);
    buffers = scenes.map((scene) => ({ places: upload(bytes(scene.data)), tints: upload(bytes(scene.colors)) }));
    return true;
  }

  function rotation() {
    const a = (state.azim * Math.PI) / 180, e = (state.elev * Math.PI) / 180;
    const [right, up, front] = data.basis;
    const towards = front.map(
      (f, i) => Math.cos(e) * (Math.cos(a) * f + Math.sin(a) * right[i]) + Math.sin(e) * up[i]);
    const across = right.map((r, i) => Math.cos(a) * r - Math.sin(a) * front[i]);
    const above = [0, 1, 2].map((i) => {
      const j = (i + 1) % 3, k = (i + 2) % 3;
      return towards[j] * across[k] - towards[k] * across[j];
    });
    return [0, 1, 2].flatMap((i) => [across[i], above[i], towards[i]]);
  }

  function grid(width, height) {
    let best = { side: -1 };
    for (let columns = 1; columns <= scenes.length; columns++) {
      const rows = Math.ceil(scenes.length / columns);
      const side = Math.min(width / columns, height / rows);
      if (side > best.side) best = { side, columns, rows };
    }
    return best;
  }

  function ground() {
    const probe = getComputedStyle(document.body).backgroundColor.match(/[\d.]+/g).map(Number);
    return probe.slice(0, 3).map((part) => part / 255);
  }

  function draw() {
    const scale = Math.min(window.devicePixelRatio || 1, 2);
    const width = Math.max(1, Math.round(stage.clientWidth * scale));
    const height = Math.max(1, Math.round(stage.clientHeight * scale));
    if (canvas.width !== width || canvas.height !== height) Object.assign(canvas, { width, height });
    const back = ground();
    gl.viewport(0, 0, width, height);
    gl.clearColor(back[0], back[1], back[2], 1);
    gl.clear(gl.COLOR_BUFFER_BIT | gl.DEPTH_BUFFER_BIT);
    gl.uniformMatrix3fv(where.u_turn, false, rotation());
    gl.uniform3fv(where.u_pivot, data.center);
    gl.uniform3fv(where.u_ground, back);
    gl.uniform1f(where.u_relief, data.relief);
    gl.uniform1f(where.u_radius, data.radius);
    const { columns, rows } = grid(width, height);
    const w = Math.floor(width / columns), h = Math.floor(height / rows);
    const label = stage.querySelector(".name");
    // The strip of the names stays free of points.
    const free = h - (label ? Math.min(Math.ceil(label.offsetHeight * scale), Math.floor(h / 3)) : 0);
    const side = Math.min(w, free) * 0.5;
    scenes.forEach((scene, index) => {
      gl.viewport((index % columns) * w, height - (Math.floor(index / columns) + 1) * h, w, free);
      const moment = last ? (state.frame / last) * (scene.frames - 1) : 0;
      const first = Math.min(Math.floor(moment), scene.frames - 1);
      const second = Math.min(first + 1, scene.frames - 1);
      const stride = scene.points * 6;
      gl.bindBuffer(gl.ARRAY_BUFFER, buffers[index].places);
      gl.vertexAttribPointer(where.before, 3, gl.SHORT, false, 6, first * stride);
      gl.vertexAttribPointer(where.after, 3, gl.SHORT, false, 6, second * stride);
      gl.bindBuffer(gl.ARRAY_BUFFER, buffers[index].tints);
      gl.vertexAttribPointer(where.tint, 3, gl.UNSIGNED_BYTE, true, 3, 0);
      gl.uniform3fv(where.u_center, scene.center);
      gl.uniform1f(where.u_step, scene.step);
      gl.uniform1f(where.u_share, moment - first);
      gl.uniform2f(where.u_fit, (state.zoom * 1.8 * side) / w, (state.zoom * 1.8 * side) / free);
      const dot = Math.min(Math.max(1.35 / Math.sqrt(scene.points), 0.004), 0.06);
      gl.uniform1f(where.u_size, Math.min(data.pointSize * dot * side * state.zoom * 1.35, 64));
      gl.drawArrays(gl.POINTS, 0, scene.points);
    });
    state.draws++;
  }

  function name() {
    const { columns, rows } = grid(stage.clientWidth, stage.clientHeight);
    stage.querySelectorAll(".name").forEach((label, index) => {
      label.style.left = `${((index % columns) / columns) * 100}%`;
      label.style.top = `${(Math.floor(index / columns) / rows) * 100}%`;
      label.style.width = `${100 / columns}%`;
    });
  }

  function tick(now) {
    dirty = false;
    if (state.playing) {
      const passed = Math.min((now - clock) / 1000, 0.1);
      clock = now;
      if (rest > 0) {
        rest -= passed;
        if (rest <= 0 && state.frame >= last) { setFrame(0); rest = HOLD; }
      } else {
        setFrame(state.frame + passed * data.fps);
        if (state.frame >= last) rest = HOLD;
      }
    }
    if (!gl.isContextLost()) draw();
    if (state.playing) request();
  }

  function request() {
    if (dirty || state.error) return;
    dirty = true;
    requestAnimationFrame(tick);
  }

  function setFrame(frame) {
    state.frame = Math.min(Math.max(frame, 0), last);
    slider.value = state.frame;
    const text = `frame ${Math.round(state.frame) + 1} of ${last + 1}`;
    at.textContent = text;
    slider.setAttribute("aria-valuetext", text);
  }

  function show(frame) {
    setPlaying(false);
    setFrame(frame);
    request();
  }

  function setPlaying(on) {
    state.playing = on && last > 0;
    play.textContent = state.playing ? "Pause" : "Play";
    if (!state.playing) return;
    if (state.frame >= last) setFrame(0);
    rest = state.frame === 0 ? HOLD / 2 : 0;
    clock = performance.now();
    request();
  }

  function turnBy(azim, elev) {
    state.azim += azim;
    state.elev = Math.min(Math.max(state.elev + elev, -89.9), 89.9);
    request();
  }

  function zoomBy(factor) {
    state.zoom = Math.min(Math.max(state.zoom * factor, 0.2), 20);
    request();
  }

  function reset() {
    Object.assign(state, start);
    request();
  }

  function listenToPointers() {
    const held = new Map();
    const spread = () => {
      const [a, b] = [...held.values()];
      return Math.hypot(a.x - b.x, a.y - b.y) || 1;
    };
    canvas.addEventListener("pointerdown", (event) => {
      canvas.setPointerCapture(event.pointerId);
      held.set(event.pointerId, { x: event.clientX, y: event.clientY });
    });
    canvas.addEventListener("pointermove", (event) => {
      const old = held.get(event.pointerId);
      if (!old) return;
      const wide = held.size === 2 ? spread() : 0;
      held.set(event.pointerId, { x: event.clientX, y: event.clientY });
      if (wide) zoomBy(spread() / wide);
      else if (held.size === 1) turnBy((old.x - event.clientX) * 0.4, (event.clientY - old.y) * 0.4);
    });
    for (const kind of ["pointerup", "pointercancel"])
      canvas.addEventListener(kind, (event) => held.delete(event.pointerId));
    canvas.addEventListener("wheel", (event) => {
      event.preventDefault();
      zoomBy(Math.exp(-Math.max(-120, Math.min(120, event.deltaY)) * 0.0015));
    }, { passive: false });
  }

  function listenToKeys() {
    const keys = {
      ArrowLeft: () => turnBy(-5, 0), ArrowRight: () => turnBy(5, 0),
      ArrowUp: () => turnBy(0, 5), ArrowDown: () => turnBy(0, -5),
      "+": () => zoomBy(1.15), "=": () => zoomBy(1.15), "-": () => zoomBy(1 / 1.15), 0: reset,
    };
    document.addEventListener("keydown", (event) => {
      const target = event.target;
      if (event.altKey || event.ctrlKey || event.metaKey || state.error) return;
      if (target === slider && event.key.startsWith("Arrow")) {
        const step = event.key === "ArrowRight" || event.key === "ArrowUp" ? 1 : -1;
        show(step > 0 ? Math.floor(state.frame + 1) : Math.ceil(state.frame - 1));
      } else if (event.key === " " && !["BUTTON", "SUMMARY"].includes(target.tagName)) setPlaying(!state.playing);
      else if (keys[event.key]) keys[event.key]();
      else return;
      event.preventDefault();
    });
  }

  if (scenes.some((scene) => scene.name)) {
    for (const scene of scenes) {
      const label = document.createElement("div");
      label.className = "name";
      label.textContent = label.title = scene.name;
      label.setAttribute("aria-hidden", "true");
      stage.append(label);
    }
  }
  if (!init()) {
    fail("This view needs WebGL, which this browser does not offer. What it would show is described below.");
    document.querySelector("details").open = true;
    return;
  }
  for (const part of [play, slider, at]) part.hidden = last === 0;
  slider.max = last || 1;
  setFrame(0);
  listenToPointers();
  listenToKeys();
  slider.addEventListener("input", () => show(Number(slider.value)));
  play.addEventListener("click", () => setPlaying(!state.playing));
  find("reset").addEventListener("click", reset);
  canvas.addEventListener("webglcontextlost", (event) => event.preventDefault());
  canvas.addEventListener("webglcontextrestored", () => { init(); request(); });
  new ResizeObserver(() => { name(); request(); }).observe(stage);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", request);
  name();
  setPlaying(data.autoplay && !matchMedia("(prefers-reduced-motion: reduce)").matches);
  request();
})();
