// What stays in the browser: conversations and settings in localStorage, the API key for as long as the tab is open.

const CONVERSATION = "glm.conversation.";
const SETTINGS = "glm.settings";
const KEY = "glm.key";

const DEFAULTS = {
  model: "",
  system: "",
  temperature: "",
  top_p: "",
  max_tokens: "",
  seed: "",
  thinking: "model",
  offerTools: false,
  toolChoice: "auto",
  tools: "",
};

function read(storage, name) {
  try {
    return JSON.parse(storage.getItem(name));
  } catch {
    // Private windows may have no storage, and people may have changed what is there.
    return null;
  }
}

/** Whether it could be kept. */
function write(storage, name, value) {
  try {
    storage.setItem(name, JSON.stringify(value));
    return true;
  } catch {
    return false;
  }
}

function isConversation(read) {
  return typeof read?.id === "string" && typeof read.title === "string" && Array.isArray(read.messages);
}

/** All conversations, the latest first. */
export function conversations() {
  let names = [];
  try {
    names = Object.keys(localStorage).filter((name) => name.startsWith(CONVERSATION));
  } catch {
    return [];
  }
  const all = names.map((name) => read(localStorage, name)).filter(isConversation);
  return all.sort((a, b) => b.updated - a.updated);
}

/** Keeps a conversation; the oldest ones make room for it. */
export function saveConversation(conversation) {
  const others = conversations().filter(({ id }) => id !== conversation.id);
  while (!write(localStorage, CONVERSATION + conversation.id, conversation)) {
    const oldest = others.pop();
    if (!oldest) return false;
    deleteConversation(oldest.id);
  }
  return true;
}

export function deleteConversation(id) {
  localStorage.removeItem(CONVERSATION + id);
}

export function newConversation() {
  const now = Date.now();
  const id = `${now.toString(36)}${Math.random().toString(36).slice(2, 8)}`;
  return { id, title: "New conversation", updated: now, messages: [] };
}

export function settings() {
  return { ...DEFAULTS, ...read(localStorage, SETTINGS) };
}

export function saveSettings(settings) {
  write(localStorage, SETTINGS, settings);
}

export function apiKey() {
  return read(sessionStorage, KEY) ?? "";
}

export function saveApiKey(key) {
  write(sessionStorage, KEY, key);
}
