"""python benchmarks/tokenize.py [--folder F] [--megabytes 300] [--workers 1 2] [--json F]; text_to_tokens.py tells all.

The standard library has a module of this name, and a script in this folder finds its neighbours first: whoever imports
`tokenize` there is given the library's.
"""

import sys

if __name__ == "__main__":
    sys.path[0] = f"{sys.path[0]}/.."
    from benchmarks.text_to_tokens import main

    main()
elif __name__ == "tokenize":
    import sysconfig
    from importlib.util import module_from_spec, spec_from_file_location

    spec = spec_from_file_location("tokenize", f"{sysconfig.get_path('stdlib')}/tokenize.py")
    assert spec
    assert spec.loader
    sys.modules["tokenize"] = module_from_spec(spec)
    spec.loader.exec_module(sys.modules["tokenize"])
