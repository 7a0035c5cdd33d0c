"""The figures of the report, one module each: data of the catalog in, SVG and the table behind it out."""
