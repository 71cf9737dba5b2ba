# SPDX-License-Identifier: Apache-2.0
"""conan create packaging/conan -s compiler.cppstd=20: the headers and their CMake package, from this checkout.

LibTorch is in no Conan repository: htl's CMake package finds it where it is on the consumer's machine, in HTL_TORCH_ROOT (a CMake or environment variable), Torch_DIR,
CMAKE_PREFIX_PATH or the active Python, or takes the one that the project has found before. The components are options: `-o "htl/*:data=True"` brings zlib,
`-o "htl/*:io=True"` that and nlohmann_json.
"""
import os
import re

from conan import ConanFile
from conan.tools.build import check_min_cppstd
from conan.tools.cmake import CMake, CMakeToolchain, cmake_layout
from conan.tools.files import copy, load

required_conan_version = ">=2.0"


class HtlConan(ConanFile):
    name = "htl"
    description = "Multi-task learning with hybrid targets on LibTorch"
    license = "Apache-2.0"
    topics = ("multi-task-learning", "recommender-systems", "libtorch", "header-only")
    package_type = "header-library"
    settings = "os", "arch", "compiler", "build_type"
    options = {"data": [True, False], "io": [True, False]}
    default_options = {"data": False, "io": False}
    no_copy_source = True

    @property
    def _root(self):
        return os.path.join(self.recipe_folder, "..", "..")

    def set_version(self):
        text = load(self, os.path.join(self._root, "include", "htl", "version.hpp"))
        self.version = ".".join(re.search(rf"#define HTL_VERSION_{part} (\d+)", text).group(1) for part in ("MAJOR", "MINOR", "PATCH"))

    def export_sources(self):
        for pattern in ("CMakeLists.txt", "LICENSE", "cmake/*", "include/*"):
            copy(self, pattern, self._root, self.export_sources_folder)

    def layout(self):
        cmake_layout(self)

    def requirements(self):
        if self.options.data or self.options.io:
            self.requires("zlib/[>=1.2.11 <2]", transitive_headers=True)
        if self.options.io:
            self.requires("nlohmann_json/[>=3.10 <4]", transitive_headers=True)

    def validate(self):
        check_min_cppstd(self, 20)

    def package_id(self):
        self.info.clear()

    def generate(self):
        toolchain = CMakeToolchain(self)
        for part in ("TESTS", "BENCHMARKS", "EXAMPLES", "DOCS"):
            toolchain.cache_variables[f"HTL_BUILD_{part}"] = False
        toolchain.generate()

    def build(self):
        CMake(self).configure()

    def package(self):
        copy(self, "LICENSE", self.source_folder, os.path.join(self.package_folder, "licenses"))
        CMake(self).install()

    def package_info(self):
        # Consumers use htl's own CMake package, which finds LibTorch; Conan generates none
        self.cpp_info.bindirs = []
        self.cpp_info.libdirs = []
        self.cpp_info.set_property("cmake_find_mode", "none")
        self.cpp_info.builddirs.append(os.path.join("share", "cmake", "htl"))
