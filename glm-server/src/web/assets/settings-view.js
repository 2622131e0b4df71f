// The settings: a form whose fields are called like those of `store.settings()`.

import { readTools } from "./answer.js";
import { byId, element } from "./dom.js";
import * as store from "./store.js";

const EXAMPLE = [
  {
    name: "get_weather",
    description: "Weather in a city",
    parameters: {
      type: "object",
      properties: { city: { type: "string", description: "the city" } },
      required: ["city"],
    },
  },
];

export class SettingsView {
  #form = byId("settings");
  #values = store.settings();

  /** `changed()` is called when somebody has changed something. */
  constructor(changed) {
    const { elements } = this.#form;
    for (const [name, value] of Object.entries(this.#values)) {
      const field = elements[name];
      if (!field) continue;
      if (field.type === "checkbox") field.checked = value === true;
      else field.value = value;
    }
    this.#form.addEventListener("input", ({ target }) => {
      // Half a key is no key.
      if (target.id === "key") return;
      this.#read();
      changed();
    });
    this.#form.addEventListener("submit", (event) => event.preventDefault());
    byId("key").value = store.apiKey();
    byId("key").addEventListener("change", () => {
      store.saveApiKey(byId("key").value.trim());
      changed();
    });
    byId("tools-example").addEventListener("click", () => {
      elements.tools.value = JSON.stringify(EXAMPLE, null, 2);
      elements.offerTools.checked = true;
      this.#read();
    });
    this.#checkTools();
  }

  /** The settings, or null if one of them cannot be meant: then the form shows which. */
  valid() {
    const isValid = this.#form.reportValidity() && this.#checkTools();
    return isValid ? this.#values : null;
  }

  /** Offers these models. */
  offerModels(names) {
    const { model } = this.#form.elements;
    const wanted = this.#values.model;
    model.replaceChildren(...names.map((name) => element("option", { value: name }, name)));
    // A model of another day may be gone.
    this.#values.model = names.includes(wanted) ? wanted : (names[0] ?? "");
    model.value = this.#values.model;
  }

  get model() {
    return this.#values.model;
  }

  #read() {
    for (const name of Object.keys(this.#values)) {
      const field = this.#form.elements[name];
      if (field) this.#values[name] = field.type === "checkbox" ? field.checked : field.value;
    }
    this.#checkTools();
    store.saveSettings(this.#values);
  }

  #checkTools() {
    let problem = "";
    try {
      if (this.#values.offerTools && readTools(this.#values.tools).length === 0) problem = "There are none yet: the example shows one.";
    } catch (error) {
      problem = `Not yet a list of functions: ${error.message}`;
    }
    byId("tools-problem").textContent = problem;
    return !this.#values.offerTools || problem === "";
  }
}
