"""The generator says the same every time, never trains on what it examines, and passes its own checks."""

import re
import unittest
from pathlib import Path

from .. import mix, phrases
from ..chat import completion, parse, prompt
from ..checks import failed, language, numbers
from ..phrases import HELD, TRAIN, expansions, is_held, normal, seeded
from ..skills.project_facts import COMMANDS, OPTIONS, QUESTIONS
from ..words import code, made_up, name, number

ARGS = Path(__file__).resolve().parents[4] / "glm-cli" / "src" / "args"


class Generator(unittest.TestCase):
    def test_the_same_arguments_give_the_same_conversation(self):
        for index in range(200):
            self.assertEqual(mix.training(1, index), mix.training(1, index))
        self.assertEqual(mix.examination("memory", 3), mix.examination("memory", 3))
        self.assertNotEqual(mix.training(1, 0), mix.training(2, 0))

    def test_no_held_out_phrasing_is_a_training_phrasing(self):
        for phrasing in phrases.REGISTRY:
            for lang in phrases.LANGS:
                train = {normal(text) for pattern in phrasing.train[lang] for text in expansions(pattern)}
                held = {normal(text) for pattern in phrasing.held[lang] for text in expansions(pattern)}
                self.assertFalse(train & held, train & held)

    def test_no_courtesy_makes_a_held_out_phrasing(self):
        rng = seeded("courtesies")
        changed = 0
        for phrasing in phrases.REGISTRY:
            for lang in phrases.LANGS:
                plain = {text for pattern in phrasing.train[lang] for text in expansions(pattern)}
                for _ in range(300 if phrasing.train[lang] else 0):
                    text = phrasing.request(rng, lang, TRAIN)
                    changed += text not in plain
                    self.assertNotIn(normal(text), phrasing.walled[lang])
        self.assertGreater(changed, 1000)

    def test_held_out_values_are_kept_apart(self):
        rng = seeded("values")
        for make in (lambda split: name(rng, "en", split), lambda split: name(rng, "zh", split),
                     lambda split: code(rng, split),
                     lambda split: made_up(rng, split), lambda split: number(rng, split)):
            train, held = ({make(split) for _ in range(2000)} for split in (TRAIN, HELD))
            self.assertFalse(train & held)

    def test_no_held_out_sum_is_trained(self):
        sums = re.compile(r"(\d+) ([+−]) (\d+) = −?\d+[.。]")
        found = 0
        for index in range(3000):
            for a, op, b in sums.findall(prompt(mix.training(0, index))):
                found += 1
                self.assertFalse(is_held("sum", op.replace("−", "-"), int(a), int(b), percent=10), (a, op, b))
        self.assertGreater(found, 100)

    def test_every_answer_passes_its_own_checks(self):
        for make in [lambda index: mix.training(3, index)] + [lambda index,
                                                              skill=skill: mix.examination(skill,
                                                                  index) for skill in mix.EXAMINED]:
            for index in range(60):
                conversation = make(index)
                wrong = failed(parse(completion(conversation), conversation.thinking), conversation.checks)
                self.assertFalse(wrong, prompt(conversation) + completion(conversation))

    def test_a_wrong_answer_fails(self):
        for skill in mix.EXAMINED:
            conversation = mix.examination(skill, 0)
            self.assertTrue(failed(parse("\nzzz<|user|>"), conversation.checks), conversation.checks)

    def test_both_languages_and_every_skill_occur(self):
        seen = {(made.skill, language(made.messages[-1].content)) for made in (mix.training(0,
            index) for index in range(4000))}
        for skill in {*mix.SKILLS, "memory", "tool answers"}:
            for lang in phrases.LANGS:
                self.assertIn((skill, lang), seen)

    def test_numbers_are_found_in_both_writings(self):
        self.assertEqual(numbers("3 − 5 = −2. a1 7"), [3, 5, -2, 7])


class ProjectFacts(unittest.TestCase):
    """What the model says about the command line is true."""

    def setUp(self):
        self.source = "\n".join(path.read_text() for path in sorted(ARGS.glob("*.rs")))

    def test_commands_are_those_of_the_program(self):
        body = self.source.split("pub enum Command {")[1].split("\n}")[0]
        self.assertEqual(set(COMMANDS), {found.lower() for found in re.findall(r"^    (\w+)\(", body, re.M)})

    def test_options_exist(self):
        fields = {found.replace("_", "-") for found in re.findall(r"^    pub (\w+):", self.source, re.M)}
        texts = [text for table in (COMMANDS, OPTIONS) for _, answer in table.values() for text in answer]
        texts += [text for _, full, brief in QUESTIONS for text in (*full, *brief)] + list(OPTIONS)
        for option in {found for text in texts for found in re.findall(r"--([a-z][a-z-]*)", text)} - {"help",
            "path"}:  # --path is cargo's
            self.assertIn(option, fields)


if __name__ == "__main__":
    unittest.main()
