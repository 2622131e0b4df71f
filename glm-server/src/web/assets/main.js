// Puts the page together: views, keys, and the side panels.

import { Api, ApiError } from "./api.js";
import { Chat } from "./chat.js";
import { Dashboard } from "./dashboard.js";
import { byId } from "./dom.js";
import { SettingsView } from "./settings-view.js";
import * as store from "./store.js";

const api = new Api(store.apiKey);
const settings = new SettingsView(() => {
  showModel();
  if (!settings.model) loadModels();
});
const chat = new Chat(api, settings);
const dashboard = new Dashboard(byId("dashboard"), api);

function showModel() {
  byId("model-name").textContent = settings.model;
  document.title = settings.model ? `GLM · ${settings.model}` : "GLM";
}

async function loadModels() {
  const notice = byId("notice");
  try {
    settings.offerModels(await api.models());
    notice.hidden = true;
    showModel();
  } catch (error) {
    const needsKey = error instanceof ApiError && (error.status === 401 || error.status === 403);
    notice.textContent = needsKey ? "This service wants an API key: give it among the settings." : error.message;
    notice.hidden = false;
    if (needsKey) togglePanel("settings", true);
    // It may be loading its model.
    else setTimeout(loadModels, 2000);
  }
}

// Side panels: beside the conversation where there is room, over it where there is none.

const isWide = matchMedia("(min-width: 1081px)");
const panels = { history: byId("show-history"), settings: byId("show-settings") };

function isShown(name) {
  const { classList } = byId(name);
  return isWide.matches ? !classList.contains("away") : classList.contains("shown");
}

function togglePanel(name, shown) {
  const { classList } = byId(name);
  if (isWide.matches) classList.toggle("away", !shown);
  else classList.toggle("shown", shown);
  panels[name].setAttribute("aria-expanded", shown);
}

for (const [name, button] of Object.entries(panels)) {
  button.addEventListener("click", () => {
    const shown = !isShown(name);
    if (shown && !isWide.matches) for (const other of Object.keys(panels)) togglePanel(other, other === name);
    togglePanel(name, shown);
    if (shown) byId(name).querySelector("button, input, select, textarea").focus();
  });
  button.setAttribute("aria-expanded", isShown(name));
}
isWide.addEventListener("change", () => {
  for (const name of Object.keys(panels)) panels[name].setAttribute("aria-expanded", isShown(name));
});

function hidePanels() {
  if (!isWide.matches) for (const name of Object.keys(panels)) togglePanel(name, false);
}

// Views.

const tabs = [...document.querySelectorAll("[role=tab]")];

function choose(chosen) {
  for (const tab of tabs) {
    const isChosen = tab === chosen;
    tab.setAttribute("aria-selected", isChosen);
    tab.tabIndex = isChosen ? 0 : -1;
    byId(tab.getAttribute("aria-controls")).hidden = !isChosen;
  }
  const isDashboard = chosen.id === "tab-dashboard";
  for (const button of Object.values(panels)) button.disabled = isDashboard;
  history.replaceState(null, "", isDashboard ? "#dashboard" : location.pathname);
  if (isDashboard) dashboard.start();
  else dashboard.stop();
}

for (const [i, tab] of tabs.entries()) {
  tab.addEventListener("click", () => choose(tab));
  tab.addEventListener("keydown", ({ key }) => {
    if (key !== "ArrowLeft" && key !== "ArrowRight") return;
    const next = tabs[(i + (key === "ArrowRight" ? 1 : tabs.length - 1)) % tabs.length];
    choose(next);
    next.focus();
  });
}
if (location.hash === "#dashboard") choose(byId("tab-dashboard"));

// The message field.

const draft = byId("draft");

function fitDraft() {
  draft.style.height = "auto";
  draft.style.height = `${draft.scrollHeight}px`;
}

byId("composer").addEventListener("submit", (event) => {
  event.preventDefault();
  if (!chat.send(draft.value)) return;
  draft.value = "";
  fitDraft();
});
draft.addEventListener("input", fitDraft);
draft.addEventListener("keydown", (event) => {
  // While a Chinese word is being composed, Enter chooses it.
  if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
  event.preventDefault();
  byId("composer").requestSubmit();
});
byId("stop").addEventListener("click", () => {
  chat.stop();
  draft.focus();
});
byId("new").addEventListener("click", begin);
byId("conversations").addEventListener("click", hidePanels);

function begin() {
  chat.fresh();
  hidePanels();
  draft.focus();
}

document.addEventListener("keydown", (event) => {
  if (event.key === "Escape") {
    if (chat.isRunning) chat.stop();
    else hidePanels();
  } else if (event.altKey && event.code === "KeyN") {
    event.preventDefault();
    choose(byId("tab-chat"));
    begin();
  }
});

showModel();
loadModels();
