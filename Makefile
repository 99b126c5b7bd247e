# SPDX-License-Identifier: Apache-2.0
# The few commands a newcomer needs; everything real is in CMake and tools/.
.PHONY: all build check fast demo install deb lint format clean
all: build
build:
	tools/install-deps build
	cmake --preset release
	cmake --build --preset release
check:
	tools/check
fast:
	tools/check --fast
demo:
	tools/demo
# make install [PREFIX=/usr] [DESTDIR=/some/root]
install: build
	DESTDIR="$(DESTDIR)" cmake --install build/release $(if $(PREFIX),--prefix "$(PREFIX)")
deb: build
	cd build/release && cpack -G DEB
lint:
	/usr/bin/python3 test/lint/lint.py
format:
	git ls-files '*.cc' '*.h' | xargs clang-format-14 -i
clean:
	rm -rf build
