"""What the preview text engine says: pure functions from a conversation to a reply.

Nothing here pretends to understand. A competence either recognises its question and answers, or steps aside; the last
one always answers and says that no language model is at work.
"""

from __future__ import annotations

import math
import random
import re
from collections import Counter
from collections.abc import Callable, Sequence

from deployments.preview import verses
from deployments.preview.exact import arithmetic, counting, listing, transforming
from deployments.preview.reading import Question, content_words, keywords, salient, sentences, split_question


def reply(messages: Sequence[tuple[str, str]], *, seed: int, temperature: float, top_p: float = 1.0) -> str:
    """The answer to the last message of a user.

    The same seed gives the same words; temperature 0 gives the first choice of each, whatever the seed, and so does a
    ``top_p`` close to 0.
    """
    asked = next((content for role, content in reversed(messages) if role == "user"), messages[-1][1]).strip()
    earlier = "\n\n".join(content for role, content in messages if role != "assistant" and content.strip() != asked)
    rng = random.Random(f"{seed}:{asked}")  # noqa: S311 the choice of words is no secret
    text, context = split_question(asked)
    question = Question(text=text, context=context or earlier, choice=verses.Choice(rng, temperature, top_p))
    for competence in COMPETENCES:
        answer = competence(question)
        if answer:
            return answer
    return honest(question)


def small_talk(question: Question) -> str:
    text = re.sub(r"[^\w\s']", "", question.text.lower()).strip()
    if re.fullmatch(r"(hi|hello|hey|hallo|hola|good (morning|evening|afternoon|day))( there| tessera| all)?", text):
        return question.choice.of(
            "Hello! I am Tessera's preview text engine. I have no language model, but I can calculate, count, make "
            "lists, summarise a text that you give me and find answers in it.",
            "Hello! This is the preview engine: no language model, but good at sums, lists, counting, and at finding "
            "the answer in a text that you paste.",
            "Hi! Ask me to summarise a text, to calculate something, or to write a small poem. I am only a preview "
            "engine, without a language model.",
        )
    if re.match(r"(thanks|thank you|thx|cheers)\b", text):
        return question.choice.of("You are welcome!", "Gladly.", "Any time.")
    if re.search(r"\b(who|what) are you\b|\bwhat can you do\b|\byour name\b|\bwhich model\b", text) and len(text) < 80:
        return (
            "I am preview-text, the built-in text engine of Tessera. I run anywhere because there is no language model "
            "in me. What I do well:\n\n"
            '- arithmetic: "what is 15% of 80", "(3 + 4) * 12"\n'
            '- summaries: "summarise in 2 sentences: …"\n'
            "- questions about a text that you paste\n"
            "- counting words, letters, sentences; sorting; lists such as primes or planets\n"
            "- small poems and stories from templates\n\n"
            "For real answers the operator connects a language model, for example through KoboldCPP."
        )
    if re.search(r"\b(say|repeat|echo)\b", text) and (match := re.search(r"[\"“](.+?)[\"”]", question.text)):
        return match[1]
    return ""


def translation(question: Question) -> str:
    if re.search(r"\btranslate|translation\b", question.text.lower()):
        return (
            "I cannot translate: this is the preview engine, and it has no language model. Choose a text model that "
            "runs on a GPU, and the same request will work there."
        )
    return ""


def summary(question: Question) -> str:
    text = question.text.lower()
    if not re.search(r"\bsummar|\btl;?dr\b|\bshorten\b|\bin short\b|\bmain points?\b|\bkey points?\b|\bbullet", text):
        return ""
    if not question.context:
        return 'Give me the text to summarise after a colon, like this: "summarise in 2 sentences: …".'
    found = sentences(question.context)
    numbers = {"one": 1, "two": 2, "three": 3, "four": 4, "five": 5, "a": 1, "single": 1}
    match = re.search(r"\b(\d{1,2}|one|two|three|four|five|single)\s+(?:short )?(?:sentence|bullet|point|line)", text)
    usual = max(1, min(5, round(len(found) / 4)))
    n = (numbers.get(match[1]) or int(match[1])) if match else usual
    chosen = salient(found, n)
    if re.search(r"bullet|points?\b|list", text):
        return "\n".join(f"- {sentence}" for sentence in chosen)
    return " ".join(chosen)


def extraction(question: Question) -> str:
    """The sentence of the context that answers a question, by shared rare words and the kind of answer asked for."""
    asked = set(content_words(question.text))
    found = sentences(question.context)
    if not found or not asked or len(question.context.split()) < 5:
        return ""
    if "?" not in question.text and not re.match(
        r"(?i)\s*(who|what|when|where|which|why|how|is|are|was|does|did|answer|find)\b", question.text
    ):
        return ""
    spread = Counter(word for sentence in found for word in set(content_words(sentence)))
    lowered = question.text.lower()

    def score(sentence: str) -> float:
        shared = asked & set(content_words(sentence))
        value = sum(1.0 + math.log(len(found) / spread[word]) for word in shared)
        if value and re.search(r"\bwhen\b|\bhow (many|much|old|long|far|tall)\b|\bwhat (year|time|date)\b", lowered):
            value += 0.8 * bool(re.search(r"\d", sentence))
        if value and re.search(r"\bwho\b|\bwhere\b", lowered):
            value += 0.5 * bool(re.search(r"(?<!^)\b[A-Z][a-z]+", sentence))
        if value and "why" in lowered:
            value += 0.8 * bool(re.search(r"\bbecause|so that|due to|since|therefore\b", sentence.lower()))
        return value

    best = max(found, key=score)
    if score(best) <= 0:
        return "The text that you gave does not say. (I only look for shared words: this is the preview engine.)"
    return best


def creative(question: Question) -> str:
    text = question.text if not question.context else f"{question.text} {question.context}"
    match = re.search(r"(?i)\b(haiku|poem|verse|rhyme|limerick|song|lyrics|story|tale|fairy ?tale)\b", text)
    if not match or not re.search(r"(?i)\bwrite|tell|make|give|compose|create|a |me\b", text):
        return ""
    subject = re.search(r"(?i)\b(?:about|on|of|for)\s+(.{2,60}?)(?:[.,;:!?\n]|$)", text[match.end() :])
    topic = subject[1].strip() if subject else "the sea"
    form = match[1].lower().replace(" ", "")
    if form == "haiku":
        return verses.haiku(topic, question.choice)
    if form in ("story", "tale", "fairytale"):
        return verses.story(topic, question.choice, long=bool(re.search(r"(?i)\blong\b|\bnovel\b", text)))
    return verses.poem(topic, question.choice)


def continuation(question: Question) -> str:
    """A continuation by word n-grams of the text itself, where there is enough of it and that is what was asked."""
    source = question.context or question.text
    if not re.search(r"(?i)\b(continue|go on|complete|carry on|more like)\b", question.text):
        return ""
    if len(source.split()) < 20:
        return ""
    continued = verses.ngrams(source, question.choice, limit=120)
    return f"{continued}\n\n(Continued by word statistics of your own text: the preview engine has no language model.)"


def _topics(text: str) -> list[str]:
    """Up to three telling words of a question, in its own order and spelling."""
    chosen = set(keywords(text, 3))
    found = [word for word in re.findall(r"[^\W\d_]{3,}", text) if word.lower() in chosen]
    return list(dict.fromkeys(found))[:3]


def honest(question: Question) -> str:
    """What is said when nothing above fits: the truth, and what would help."""
    topics = _topics(f"{question.text} {question.context}")
    named = (
        f" about {topics[0]}"
        if len(topics) == 1
        else f" about {', '.join(topics[:-1])} and {topics[-1]}"
        if topics
        else ""
    )
    opening = question.choice.of(
        f"You asked{named}. I cannot really answer that: I am Tessera's preview engine, without a language model.",
        f"That is a question{named} for a language model, and this preview engine has none.",
        f"I am only a preview engine without a language model: I know nothing{named} but what you give me.",
    )
    if question.context and len(sentences(question.context)) > 1:
        gist = " ".join(salient(sentences(question.context), 2))
        return f"{opening}\n\nWhat I can say of your text is its gist: {gist}"
    offer = question.choice.of(
        "Paste a text and ask about it, ask me to summarise it, or try a sum, a list or a small poem.",
        "What works here: a question about a text that you paste, a summary, arithmetic, lists, counting, a haiku.",
        "I do well with sums, lists, counting, summaries and questions about a text that you give me.",
    )
    closing = question.choice.of(
        "With a real model behind it, this same request will get a real answer.",
        "As soon as the operator adds a GPU model, the same request gets a real answer.",
        "The request itself was fine: send it to a model that runs on a GPU.",
    )
    return f"{opening} {offer} {closing}"


COMPETENCES: tuple[Callable[[Question], str], ...] = (
    small_talk,
    translation,
    summary,
    arithmetic,
    counting,
    transforming,
    creative,
    listing,
    continuation,
    extraction,
)
