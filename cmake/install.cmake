# SPDX-License-Identifier: Apache-2.0
# `cmake --install` (DESTDIR and --prefix as everywhere) and the .deb (`cpack -G DEB`). Neither builds anything.
include(GNUInstallDirs)
set(CMAKE_SKIP_INSTALL_ALL_DEPENDENCY ON)
foreach(program caissond caisson containerd-shim-caisson-v2 caisson-oci)
  if(TARGET ${program})
    install(TARGETS ${program} RUNTIME DESTINATION ${CMAKE_INSTALL_BINDIR})
  endif()
endforeach()

# The name by which containerd finds the companion for pods that are virtual machines.
if(TARGET containerd-shim-caisson-v2)
  install(CODE [[
    set(folder "$ENV{DESTDIR}${CMAKE_INSTALL_PREFIX}/bin")
    message(STATUS "Installing: ${folder}/containerd-shim-caisson-vm-v2")
    file(CREATE_LINK containerd-shim-caisson-v2 "${folder}/containerd-shim-caisson-vm-v2" SYMBOLIC)
  ]])
endif()

# The unit names the daemon's path, which is known only now.
install(CODE [[
  file(READ "${CMAKE_CURRENT_LIST_DIR}/share-root.txt" source)
  string(STRIP "${source}" source)
  file(READ "${source}/share/systemd/caissond.service" unit)
  string(REPLACE "/usr/bin/caissond" "${CMAKE_INSTALL_PREFIX}/bin/caissond" unit "${unit}")
  string(REPLACE "/usr/share/doc/" "${CMAKE_INSTALL_PREFIX}/share/doc/" unit "${unit}")
  set(folder "$ENV{DESTDIR}${CMAKE_INSTALL_PREFIX}/lib/systemd/system")
  message(STATUS "Installing: ${folder}/caissond.service")
  file(MAKE_DIRECTORY "${folder}")
  file(WRITE "${folder}/caissond.service" "${unit}")
]])
file(WRITE ${CMAKE_BINARY_DIR}/share-root.txt "${CMAKE_SOURCE_DIR}")

# Completions as the command itself prints them.
if(TARGET caisson)
  install(CODE "set(caisson \"$<TARGET_FILE:caisson>\")")
  install(CODE [[
    foreach(pair bash:bash-completion/completions/caisson zsh:zsh/vendor-completions/_caisson fish:fish/vendor_completions.d/caisson.fish)
      string(REPLACE ":" ";" pair "${pair}")
      list(GET pair 0 shell)
      list(GET pair 1 path)
      set(file "$ENV{DESTDIR}${CMAKE_INSTALL_PREFIX}/share/${path}")
      message(STATUS "Installing: ${file}")
      execute_process(COMMAND "${caisson}" completion ${shell} OUTPUT_VARIABLE script COMMAND_ERROR_IS_FATAL ANY)
      get_filename_component(folder "${file}" DIRECTORY)
      file(MAKE_DIRECTORY "${folder}")
      file(WRITE "${file}" "${script}")
    endforeach()
  ]])
endif()

# Manual pages, compressed as Debian wants them; gzip -n: the same bytes each time.
install(CODE [[
  file(READ "${CMAKE_CURRENT_LIST_DIR}/share-root.txt" source)
  string(STRIP "${source}" source)
  foreach(page caisson.1 caissond.8 caisson-oci.8)
    string(REGEX REPLACE ".*[.]" "" section ${page})
    set(folder "$ENV{DESTDIR}${CMAKE_INSTALL_PREFIX}/share/man/man${section}")
    message(STATUS "Installing: ${folder}/${page}.gz")
    file(MAKE_DIRECTORY "${folder}")
    execute_process(COMMAND gzip -9nc "${source}/share/man/${page}" OUTPUT_FILE "${folder}/${page}.gz" COMMAND_ERROR_IS_FATAL ANY)
  endforeach()
]])

install(FILES README.md CHANGELOG.md CONTRIBUTING.md DESTINATION ${CMAKE_INSTALL_DATAROOTDIR}/doc/caisson)
install(FILES share/debian/copyright DESTINATION ${CMAKE_INSTALL_DATAROOTDIR}/doc/caisson)
install(DIRECTORY docs DESTINATION ${CMAKE_INSTALL_DATAROOTDIR}/doc/caisson)
install(DIRECTORY share/cni share/grafana share/kubernetes share/seccomp DESTINATION ${CMAKE_INSTALL_DATAROOTDIR}/doc/caisson/examples)
install(FILES share/config.toml DESTINATION ${CMAKE_INSTALL_DATAROOTDIR}/doc/caisson/examples)

set(CPACK_GENERATOR DEB)
set(CPACK_PACKAGE_NAME caisson)
set(CPACK_PACKAGE_VENDOR "The Caisson authors")
set(CPACK_PACKAGE_CONTACT "The Caisson authors <maintainers@caisson.invalid>")
set(CPACK_PACKAGE_DESCRIPTION_SUMMARY "Kubernetes container runtime")
set(CPACK_DEBIAN_PACKAGE_DESCRIPTION
  "caissond serves the Kubernetes CRI to the kubelet: it pulls images, calls CNI
plugins and runs each pod in the sandbox that its RuntimeClass names. The
command caisson runs and looks at pods on the node.")
set(CPACK_PACKAGING_INSTALL_PREFIX /usr)
set(CPACK_STRIP_FILES ON)
set(CPACK_INSTALL_DEFAULT_DIRECTORY_PERMISSIONS OWNER_READ OWNER_WRITE OWNER_EXECUTE GROUP_READ GROUP_EXECUTE
                                                WORLD_READ WORLD_EXECUTE)
set(CPACK_DEBIAN_FILE_NAME DEB-DEFAULT)
set(CPACK_DEBIAN_PACKAGE_SECTION admin)
set(CPACK_DEBIAN_PACKAGE_PRIORITY optional)
set(CPACK_DEBIAN_PACKAGE_SHLIBDEPS ON)
set(CPACK_DEBIAN_PACKAGE_RECOMMENDS "containernetworking-plugins, iptables, ca-certificates")
set(CPACK_DEBIAN_PACKAGE_SUGGESTS "qemu-system-x86, erofs-utils")  # pods in VMs
set(CPACK_DEBIAN_PACKAGE_CONTROL_EXTRA ${CMAKE_SOURCE_DIR}/share/debian/postinst ${CMAKE_SOURCE_DIR}/share/debian/prerm
                                       ${CMAKE_SOURCE_DIR}/share/debian/postrm)
set(CPACK_DEBIAN_PACKAGE_CONTROL_STRICT_PERMISSION ON)
include(CPack)
