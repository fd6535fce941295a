// Gradio's clock asks for a frame in every frame for as long as a search lasts, seen or not: sixty paintings a second,
// taken from a model that computes on the same processor. Whatever asks from within its own frame for longer than
// an animation lasts gets a frame a second instead. Must run before Gradio's modules, which keep the function.
{
  const ask = window.requestAnimationFrame.bind(window);
  const cancel = window.cancelAnimationFrame.bind(window);
  const FRAMES = 120, PAUSE = 1000;
  const later = new Map();
  let running = 0;  // How many frames in a row led to the callback that runs now.

  function run(callback, asked) {
    return (now) => {
      running = asked;
      try {
        callback(now);
      } finally {
        running = 0;
      }
    };
  }

  window.requestAnimationFrame = (callback) => {
    const asked = running + 1;
    if (asked <= FRAMES) return ask(run(callback, asked));
    // Ids of frames are positive; those of pauses are not.
    const id = -setTimeout(() => later.set(id, ask((now) => (later.delete(id), run(callback, asked)(now)))), PAUSE);
    return id;
  };
  window.cancelAnimationFrame = (id) => {
    if (id >= 0) return cancel(id);
    clearTimeout(-id);
    if (later.has(id)) cancel(later.get(id));
    later.delete(id);
  };
  window.requestAnimationFrame.unslowed = ask;
}
