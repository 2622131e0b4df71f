// Not a module, so that the page is never drawn in the wrong colours first.
(() => {
  const choices = ["light", "dark"];
  const root = document.documentElement;
  const apply = (theme) => (choices.includes(theme) ? (root.dataset.theme = theme) : delete root.dataset.theme);
  try {
    apply(localStorage.getItem("glm.theme"));
  } catch {
    // Without storage the system decides.
  }
  document.addEventListener("DOMContentLoaded", () => {
    document.getElementById("theme").addEventListener("click", () => {
      const isDark = getComputedStyle(root).colorScheme === "dark" || (!root.dataset.theme && matchMedia("(prefers-color-scheme: dark)").matches);
      const theme = isDark ? "light" : "dark";
      apply(theme);
      try {
        localStorage.setItem("glm.theme", theme);
      } catch {
        // It holds for this page.
      }
    });
  });
})();
