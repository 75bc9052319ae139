"""What the model is asked to draw where no prompts are named: things, places and people in many colours and lights.

None names a style: what is learnt is the way from such a picture to the painted one.
"""

PROMPTS = (
    "a photo of a cat", "a photo of a red car on a street", "a portrait of a woman in a green coat",
    "a photo of a house with a blue door", "a photo of a mountain lake in the morning", "a photo of a bowl of oranges",
    "a photo of a yellow flower in a garden", "a portrait of an old man with a grey beard", "a photo of a boat at sea",
    "a photo of a dog on a beach", "a photo of a busy market", "a photo of a tree on a hill at sunset",
    "a photo of a white horse in a meadow", "a photo of a kitchen with copper pans", "a photo of a city at night",
    "a photo of a child with a pink balloon", "a photo of a steam train in the snow", "a photo of a purple umbrella",
    "a photo of a castle on a rock", "a photo of a parrot on a branch", "a photo of a desk with books and a lamp",
    "a photo of a forest path in autumn", "a portrait of a young man in a brown jacket", "a photo of a teapot",
    "a photo of a bridge over a river", "a photo of a field of lavender", "a photo of a violin on a chair",
    "a photo of two people in a café", "a photo of a fox in the grass", "a photo of a lighthouse in a storm",
    "a photo of a green bicycle at a wall", "a photo of a loaf of bread on a table", "a photo of a desert at noon",
    "a portrait of a girl with red hair", "a photo of an owl in the dark", "a photo of a harbour with sailing ships",
    "a photo of a pair of black shoes", "a photo of a waterfall in a jungle", "a photo of a windmill and tulips",
    "a photo of a goldfish in a glass", "a photo of an orange cat on a sofa", "a photo of a church in a village",
    "a photo of an elephant in dry grass", "a photo of a cake with strawberries", "a photo of a lorry on a motorway",
    "a portrait of a woman in a white dress", "a photo of a snowy village at dusk", "a photo of a blue butterfly",
)  # fmt: skip
