"""What is known of the settings of commands, and what is refused: a setting without effect, or one that is wrong.

The checks of a command line, in their order. Those before the last need neither PyTorch nor the data:

cli.values: every value has the type of its default, and every added setting is some object's.
lightning: what a run takes of Lightning's Trainer; of its callbacks, as soon as they are made.
table: ranges, and all else that is known of a setting by its name.
parameters: what a config passes to classes and functions, held against what these take.

What only an object can know, such as a network that a weight does not fit, it refuses itself when it is made.
"""
