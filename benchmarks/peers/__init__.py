"""Other people's ways of making a UAP, behind one signature; the extra ``peers`` brings their packages."""
