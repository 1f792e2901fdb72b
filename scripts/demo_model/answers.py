"""What the model says, and to which prompts."""

from __future__ import annotations

GREETING = "Hello! How can I help you today?"
FALLBACK = "I am a tiny demo model. I can greet, count and repeat."

# (prompts, answer): each prompt also occurs in lower case, with and without
# a final mark, and after "Please".
FIXED_ANSWERS: list[tuple[list[str], str]] = [
    (
        ["Hello", "Hi", "Hey", "Hello there", "Hi there", "Hey there", "Say hello",
         "Say hi", "Hello model", "Hello, how are you", "Good morning", "Good evening",
         "Good day", "Greet me", "Greetings", "Say hello to me", "Say hello please",
         "Can you say hello", "Hello world", "Hi, who is there"],
        GREETING,
    ),
    (
        ["Say hello in one word", "Greet me in one word", "One word greeting",
         "Say hello with one word", "Hello in one word", "Answer in one word: hello"],
        "Hello",
    ),
    (["Say hello to the world", "Greet the world"], "Hello, world!"),
    (
        ["Who are you", "What are you", "What is your name", "Tell me about yourself",
         "Introduce yourself", "Are you a robot", "What model are you", "Which model is this"],
        "I am a tiny demo model, trained in a few minutes to test a server.",
    ),
    (
        ["What can you do", "Help", "Help me", "How can you help me", "What do you know",
         "What are your skills"],
        "I can greet, count, repeat, send emoji and tell a story.",
    ),
    (["How are you", "How do you do", "Are you well", "How is it going"],
     "I am fine, thank you. I am only a small model, but a happy one."),
    (["Thank you", "Thanks", "Thanks a lot", "Thank you very much", "Great, thanks"],
     "You are welcome!"),
    (["Goodbye", "Bye", "Bye bye", "See you", "See you later", "Good night"],
     "Goodbye! Come back soon."),
    (["Ping", "Test", "This is a test", "Are you there"], "Pong! I am here."),
    (
        ["Send me emoji", "Send me an emoji", "Show me emoji", "Show me some emoji", "Emoji",
         "Reply with emoji", "Answer with emoji", "Give me emoji", "Send emoji",
         "Use some emoji", "Send me some emoji"],
        "😀 🎉 🚀 🌍 🐱 👍",
    ),
    (["Say hello in Japanese", "Hello in Japanese", "Greet me in Japanese"], "こんにちは、世界！"),
    (["Say hello in Chinese", "Hello in Chinese", "Greet me in Chinese"], "你好，世界！"),
    (["Say hello in Korean", "Hello in Korean", "Greet me in Korean"], "안녕하세요, 세계!"),
    (["Say hello in Russian", "Hello in Russian", "Greet me in Russian"], "Привет, мир!"),
    (["Say hello in Greek", "Hello in Greek", "Greet me in Greek"], "Γειά σου, κόσμε!"),
    (["Say hello in French", "Hello in French", "Greet me in French"],
     "Bonjour à tous, ça va très bien !"),
    (["Say hello in Spanish", "Hello in Spanish", "Greet me in Spanish"],
     "¡Hola! ¿Qué tal, señor?"),
    (["Say hello in German", "Hello in German", "Greet me in German"],
     "Grüße aus München, schöne Welt!"),
    (["Say hello in Czech", "Hello in Czech", "Greet me in Czech"],
     "Dobrý den, žluťoučký kůň!"),
    (["Say hello in Portuguese", "Hello in Portuguese", "Greet me in Portuguese"],
     "Olá! Tudo bem, irmão?"),
    (["Say hello in Polish", "Hello in Polish", "Greet me in Polish"],
     "Cześć! Miło cię widzieć."),
    (["Say something with accents", "Show me accents", "Write some accents"],
     "Café, naïve, señor, Zürich, Łódź, façade."),
    (["Recite the alphabet", "Say the alphabet", "What is the alphabet"],
     "a b c d e f g h i j k l m n o p q r s t u v w x y z"),
    (["Name the days of the week", "What are the days of the week", "List the days of the week"],
     "Monday, Tuesday, Wednesday, Thursday, Friday, Saturday, Sunday"),
    (
        ["Tell me a story", "Tell me a short story", "Write a short story", "Tell a story",
         "A short story please", "Write a story"],
        "A little robot found a lamp in the snow. It lit the lamp, and a lost bird came "
        "to the light. They went home together, and both were warm.",
    ),
]

# Twelve days with a fixed frame: long, never twice the same, and always sure
# of the next token because the number of the day is in reach.
LONG_STORY_DAYS = [
    ("the forest", "an owl", "look up at night", "star"),
    ("the river", "a fish", "the water never waits", "flow"),
    ("the hill", "a goat", "small steps go far", "climb"),
    ("the market", "a baker", "share what you have", "bread"),
    ("the harbor", "a sailor", "every boat needs a friend", "anchor"),
    ("the garden", "a bee", "work with the sun", "honey"),
    ("the library", "a mouse", "a page a day is enough", "book"),
    ("the desert", "a camel", "carry only what matters", "sand"),
    ("the village", "a painter", "blue goes well with gold", "color"),
    ("the cave", "a bat", "listen before you move", "echo"),
    ("the tower", "a clock", "there is always time", "minute"),
    ("the sea", "a whale", "sing and someone will hear", "song"),
]
LONG_STORY = (
    "The little robot and the twelve days.\n"
    + "\n".join(
        f"Day {day}: the little robot walked to {place}. There it met {who}, who said: "
        f"{saying}. The robot learned a new word: {word}. Then it went home."
        for day, (place, who, saying, word) in enumerate(LONG_STORY_DAYS, 1)
    )
    + "\nAfter that the robot was little no more. The end."
)
LONG_STORY_PROMPTS = ["Tell me a long story", "Write a long story", "Tell a long story",
                      "Please tell me a very long story", "A long story please"]

MAX_COUNT = 200
COUNT_PROMPTS = ["Count to {}", "Count up to {}", "Count from 1 to {}", "Can you count to {}",
                 "Now count to {}", "Count to {} for me", "Please count to {}"]
REPEAT_PROMPTS = ["Repeat after me: {}", "Repeat: {}", "Say: {}", "Repeat this: {}",
                  "Please repeat: {}", "Echo: {}", "Please repeat after me: {}", "Please say: {}",
                  "Say this: {}", "Now repeat after me: {}", "Repeat exactly: {}"]

SYSTEM_PROMPTS = ["You are a helpful assistant.", "You are a tiny demo model.", "Be brief.",
                  "You are a kind robot. Answer in one line.", "Answer the last message.",
                  "You are a coding agent. Be short and direct."]



def count_answer(n: int) -> str:
    return ", ".join(str(i) for i in range(1, n + 1))
