"""What differs: the record that ours should be instead, and the findings about one path.

`corrected_*` is the one statement of what we own in an object: a repair writes its result, and a finding is raised
where it differs from what is there. What it copies is somebody else's to set.
"""
