"""Where names come from: symbol tables, exports, and the data tables that the package ships."""
