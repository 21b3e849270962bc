"""Drawing result tables. One module per experiment; colours and saving in `style`."""
