"""The grading page: a person looks at single cells and says, from 1 to 5, how surely each shows one class.

cells.py     the cells of a data folder, their current labels and scores, and single records read by their offset
order.py     which cell comes next: queue orders, and repeats that measure the grader's agreement
standing.py  the decisions that stand, by row
session.py   one grader's session: queue + journal (`hpa_tf.grade_journal`) -> progress
pixels.py    a record -> what the page draws
context.py   the cell in its field of view, with its outline
command.py   the command line
server.py    HTTP on 127.0.0.1: requests, what is refused, answers
page.html, page.css, page.js   the page, plain JavaScript, nothing from elsewhere

No TensorFlow here, and no label is decided here: `hpa_tf.label_rules` turns grades into soft labels.
"""
