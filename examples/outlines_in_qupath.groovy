// Add predicted cells to the open image in QuPath (Automate > Script editor; written for QuPath 0.4 and later, not run
// in the tests). The file has the image's name and comes from
//     python -m hpa_tf.evaluation outlines PREDICTIONS/submission.csv --out OUTLINES
// Coordinates are pixels; dragging the file onto the open image does the same.
def folder = "OUTLINES"
def name = getProjectEntry()?.getImageName() ?: getCurrentServer().getMetadata().getName()
def id = name.replaceAll(/(?i)(_(red|green|blue|yellow))?(\.ome)?\.(tiff?|png|jpe?g)(\.gz)?$/, "")
importObjectsFromFile(buildFilePath(folder, id + ".geojson"))
fireHierarchyUpdate()
