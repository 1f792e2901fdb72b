"""The words and the frames of prompts that the model has no answer to, and of what it repeats."""

WORDS = """
a about above action add after again agent all also always an and animal answer any apple are
argument array as ask at back ball be because before best better big bird black blue boat book
both box branch bread bridge bring brown build but buffer by cache call can car case cat change
chair check child city class clear clock close cloud code cold color command commit compile
complete config context copy could count cow create current dark data date day debug default
delete describe directory do dog done door down draw dream drive dry each earth easy east eat
edit egg empty end error even every example execute exit explain eye fail false far fast field
file find fine fire first fish fix flag flower fly follow food for forest form format found
four free friend from function garden get give glass go gold good green ground group grow guess
hand happy hard has have head hear heart heavy help her here high hill his hold home hope horse
hot hour house how if import in inside instructions into is island it item jump just keep key
kind king kitchen know lake lamp land language large last late learn leaf leave left let letter
light like line list little load long look loop love low machine main make many map mark match
matter may mean memory message method milk mind minute mode model moon more morning most mountain
mouse move much music must name near need never new next night no north not note nothing now
number object of off old on once one only open option or orange other our out output over page
paper parameter park parse path pattern pen people permission pink place plan plant play please
point pool print process project prompt proper pull push question quick quiet rain range read
ready real red reference release remove repeat replace report request required response result
return right ring river road rock room root round rule run safe same sand save say sea search
second see send sentence server set shell ship short should show side simple since sing sky sleep
slow small snow so some song soon source south space speak stand star start state step still
stone stop story stream street string strong style sun system table take talk task tell test text
than that the their them then there these they thing think this thread through time to token tool
top town train tree true try turn two type under until up update use user value variable verify
very village voice wait walk wall want warm was wash water way weather well were west what wheel
when where which while white who why wide will wind window winter with without wood word work
world would write wrong year yellow yes yet you young your
""".split()

COMMON_WORDS = """the to and of a in is you it for on with that this are as be not or if use can
file code do when an The user your from path""".split()
ENDINGS = "s ed er ing ion ions able ment ly al ure ence ity ter ate ent est and com con re pro".split()

QUESTION_FRAMES = [
    "What is the {} of {}?", "How do I {} a {}?", "Why is the {} so {}?", "Where is my {}?",
    "Write a poem about {}", "Explain {} to me", "Can you {} the {}?", "Fix the {} in {}",
    "When will the {} {}?", "Translate {} into {}", "Who made the {}?", "Is {} a {}?",
    "Write a function that can {} the {}", "I think the {} is {}", "Please {} the {}",
    "Describe the {}", "Do you like {}?", "How many {} are there?", "What about {} and {}?",
    "Read the file {}.py", "The {} does not {}", "Give me a {}", "Tell me about {}",
    "What does {} mean?", "Find the {} in the {}", "Summarize the {}", "Count the {} in the {}",
    "Say something about {}", "Send me the {}", "My {} is {}", "Show me the {}", "Compare {} with {}",
]
