"""Samples of GQA, VQAv2 and TextVQA: a question, and a word for an answer."""

import hashlib
import random
from pathlib import Path

from yopo_train.data.benchmark_samples.scenes import SHORT_ANSWER, has, new_scene, save, write_json, write_json_lines
from yopo_train.data.shapes import KINDS, Question, Scene, ask, draw
from yopo_train.data.shapes.questions import Balance
from yopo_train.data.shapes.scene import COLOURS, IMAGE_SIZE

_STRUCTURE = {"colour": "query", "count": "query", "read": "query", "existence": "verify", "relation": "choose"}


def gqa(folder: Path, rng: random.Random) -> None:
    """``testdev_balanced_questions.json`` and ``images/``: 12 questions about 6 pictures."""
    balance, questions = Balance(), {}
    for i in range(6):
        scene, image = new_scene(rng), f"n{100001 + i}"
        save(scene, folder / "images" / f"{image}.jpg")
        for question in _questions(scene, 2, balance, rng):
            name = f"2010{len(questions):05d}"
            questions[name] = _gqa_row(question, image)
    write_json(folder / "testdev_balanced_questions.json", questions)


def vqav2(folder: Path, rng: random.Random) -> None:
    """12 questions of val2014 with ten answers each, and 4 of test-dev2015 without, the latter in LLaVA's file too."""
    balance = Balance()
    questions, annotations = [], []
    for i in range(6):
        scene, image = new_scene(rng), 9001 + i
        save(scene, folder / "val2014" / f"COCO_val2014_{image:012d}.jpg")
        for j, question in enumerate(_questions(scene, 2, balance, rng)):
            ids = {"image_id": image, "question_id": 1000 * image + j}
            questions.append(ids | {"question": question.text})
            annotations.append(ids | _vqa_annotation(question, rng))
    write_json(folder / "v2_OpenEnded_mscoco_val2014_questions.json", _vqa_file("val2014", questions=questions))
    write_json(folder / "v2_mscoco_val2014_annotations.json", _vqa_file("val2014", annotations=annotations))

    hidden, llava = [], []
    for i in range(2):
        scene, image = new_scene(rng), 9101 + i
        file = f"COCO_test2015_{image:012d}.jpg"
        save(scene, folder / "test2015" / file)
        for j, question in enumerate(_questions(scene, 2, balance, rng)):
            name = 1000 * image + j
            hidden.append({"image_id": image, "question": question.text, "question_id": name})
            text = f"{question.text}\n{SHORT_ANSWER}"
            llava.append({"question_id": name, "image": file, "text": text, "category": "default"})
    file = "v2_OpenEnded_mscoco_test-dev2015_questions.json"
    write_json(folder / file, _vqa_file("test-dev2015", questions=hidden))
    write_json_lines(folder / "llava_vqav2_mscoco_test-dev2015.jsonl", llava)


def textvqa(folder: Path, rng: random.Random) -> None:
    """11 questions of validation, with LLaVA's file, which names what an OCR system read: of one picture nothing."""
    rows, llava = [], []
    for i in range(6):
        scene = new_scene(rng, has("digit", "letter") if i < 4 else has("digit"))
        image = hashlib.sha256(draw(scene).tobytes()).hexdigest()[:16]
        save(scene, folder / "train_images" / f"{image}.jpg")
        tokens = [] if i == 5 else [thing.form for thing in scene.things if thing.word != thing.form]
        for thing in scene.things:
            if thing.word == thing.form:
                continue
            question = f"which {thing.word} is shown?"
            rows.append(_textvqa_row(question, thing.form, thing.word, image, len(rows), rng))
            text = f"{question.capitalize()}\nReference OCR token: {', '.join(tokens)}\n{SHORT_ANSWER}"
            llava.append({"question_id": image, "image": f"{image}.jpg", "text": text, "category": "default"})
    write_json(folder / "TextVQA_0.5.1_val.json", {"dataset_type": "val", "dataset_version": "0.5.1", "data": rows})
    write_json_lines(folder / "llava_textvqa_val_v051_ocr.jsonl", llava)


def _questions(scene: Scene, number: int, balance: Balance, rng: random.Random) -> list[Question]:
    """Questions of different kinds."""
    asked = (ask(scene, kind, balance, rng) for kind in rng.sample(KINDS, len(KINDS)))
    return [question for question in asked if question is not None][:number]


def _gqa_row(question: Question, image: str) -> dict:
    structure = _STRUCTURE[question.kind]
    return {
        "semantic": [],
        "entailed": [],
        "equivalent": [],
        "question": question.text,
        "imageId": image,
        "isBalanced": True,
        "groups": {"global": None, "local": f"shapes-{question.kind}"},
        "answer": question.answer.lower(),
        "semanticStr": "",
        "annotations": {"answer": {}, "question": {}, "fullAnswer": {}},
        "types": {"detailed": question.kind, "semantic": "attr", "structural": structure},
        "fullAnswer": f"The answer is {question.answer.lower()}.",
    }


def _vqa_file(subset: str, **rows: list[dict]) -> dict:
    about = {"description": "Drawn shapes", "version": "1.0", "year": 2025}
    return {"info": about, "task_type": "Open-Ended", "data_type": "mscoco", "data_subtype": subset} | rows


def _vqa_annotation(question: Question, rng: random.Random) -> dict:
    kind = {"existence": "yes/no", "count": "number"}.get(question.kind, "other")
    answers = _ten(question.answer.lower(), kind, rng)
    return {
        "question_type": " ".join(question.text.lower().split()[:2]),
        "multiple_choice_answer": question.answer.lower(),
        "answers": [
            {"answer": text, "answer_confidence": "yes" if text == question.answer.lower() else "maybe", "answer_id": n}
            for n, text in enumerate(answers, 1)
        ],
        "answer_type": kind,
    }


def _ten(answer: str, kind: str, rng: random.Random) -> list[str]:
    """What ten people say: not all agree."""
    others = {"yes/no": ["yes", "no"], "number": ["1", "2", "3", "4"]}.get(kind, [*COLOURS, "left", "above"])
    wrong = [other for other in others if other != answer]
    answers = [answer] * 10
    for place in rng.sample(range(10), rng.randint(0, 3)):
        answers[place] = rng.choice(wrong)
    return answers


def _textvqa_row(question: str, answer: str, word: str, image: str, number: int, rng: random.Random) -> dict:
    answers = [answer] * 10
    for place in rng.sample(range(10), rng.randint(0, 2)):
        answers[place] = rng.choice((answer.lower(), f"the {word} {answer}", "unanswerable"))
    return {
        "question": question,
        "image_id": image,
        "image_classes": ["Shape"],
        "flickr_original_url": "",
        "flickr_300k_url": "",
        "image_width": IMAGE_SIZE,
        "image_height": IMAGE_SIZE,
        "answers": answers,
        "question_tokens": question.rstrip("?").split(),
        "question_id": 34602 + number,
        "set_name": "val",
    }
