"""Problems with figures: the schema and its Parquet, answers and their grading, Geometry3K. All notebooks."""

import lazy_loader

PUBLIC = {
    "schema": ["IMAGE_MARK", "DatasetError", "Problem", "read_annotations", "tag_annotations"],
    "parquet": ["load_problems", "write_problems"],
    "answers": ["extract_answer"],
}
__getattr__, __dir__, __all__ = lazy_loader.attach(__name__, submod_attrs=PUBLIC)
