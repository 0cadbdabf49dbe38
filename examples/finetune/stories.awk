# SPDX-License-Identifier: Apache-2.0
# Writes small stories, one JSON object a line: awk -v count=1600 -v seed=1 -f stories.awk >stories.jsonl
# The same seed gives the same stories with every awk: the generator is Park and Miller's, and no number has 2^53.
function pick(options,   parts, n) {
  seed = (seed * 16807) % 2147483647
  n = split(options, parts, /\|/)
  return parts[seed % n + 1]
}
BEGIN {
  if (count == "") count = 1600
  if (seed == "" || seed < 1) seed = 1
  for (story = 0; story < count; ++story) {
    name = pick("Tim|Lily|Ben|Mia|Tom|Anna|Sam|Sue|Max|Lucy|Jack|Rose")
    who = pick("boy|girl|rabbit|bear|mouse|duck|fox|cat|dog|frog")
    friend = pick("Mum|Dad|Grandma|a kind owl|a wise turtle|a small bird|the old gardener|a busy bee")
    thing = pick("ball|kite|boat|hat|bell|drum|key|spoon|lamp|toy car|blanket|book")
    look = pick("red|blue|shiny|tiny|soft|round|golden|old|green|funny")
    place = pick("park|garden|forest|kitchen|barn|pond|hill|beach|yard|meadow")
    feeling = pick("happy|proud|very glad|full of joy|warm inside")
    text = pick("Once upon a time, there was a little|One day, there was a small|Once there was a young") " " who " named " name ". "
    text = text name " " pick("loved to play in the|liked to walk to the|lived near the|often went to the") " " place ". "
    text = text pick("Every day|Each morning|When the sun came up|After lunch") " " name " " pick("took|carried|held|played with") " a " look " " thing ". "
    text = text "It was " pick("the best " thing " of all|a very special " thing "|the most loved " thing " in the whole world|a gift") ". "
    trouble = pick("lost|broke|hid|wet")
    if (trouble == "lost") text = text "But one day, the " thing " was gone. " name " looked " pick("under the bed|behind the tree|in the box|all over the " place) " and could not find it. "
    if (trouble == "broke") text = text "But one day, the " thing " " pick("fell down|hit a rock|slipped away") " and broke. " name " did not know what to do. "
    if (trouble == "hid") text = text "But one day, a " pick("big wind|naughty goat|silly puppy|black crow") " took the " thing " away. " name " ran and ran, but was too slow. "
    if (trouble == "wet") text = text "But one day, it began to rain and the " thing " got all wet. " name " tried to dry it, but it was too cold. "
    text = text name " was sad and began to " pick("cry|sob|weep") ". "
    text = text "Then " friend " came and said, \\\"" pick("Do not cry|Do not worry|Please do not be sad|It will be all right") ", " name ". " pick("I can help you|We can fix it|Let us try together|We will find a way") ".\\\" "
    if (trouble == "lost") text = text "They looked " pick("once more|together|very slowly") " and there it was, " pick("behind a big stone|under a leaf|inside a shoe|next to the gate") "! "
    if (trouble == "broke") text = text "They used some " pick("glue|string|tape|paper") " and soon the " thing " was like new. "
    if (trouble == "hid") text = text "They " pick("shared some bread|sang a song|asked nicely|waited quietly") " and the " thing " came back. "
    if (trouble == "wet") text = text "They put the " thing " " pick("by the fire|in the sun|on a warm stone") " and soon it was dry. "
    text = text name " said, \\\"" pick("Thank you so much|Thank you|Oh, thank you") "!\\\" and gave " friend " a " pick("big hug|kiss|flower|cookie|smile") ". "
    text = text "From that day on, " name " " pick("learned to ask for help|knew that friends help|was careful with the " thing "|always shared the " thing) " and was " feeling ". "
    text = text pick("The end.|They were friends for ever.|And they all went home to eat cake.|That night, " name " slept well.")
    printf "{\"text\": \"%s\"}\n", text
  }
}
