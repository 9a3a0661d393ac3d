import subprocess
import sys

from edgeres.model.zoo import import_torchvision


def test_import_is_idempotent_and_whole():
    package = import_torchvision()
    assert import_torchvision() is package
    assert package.models.get_model_weights("resnet18").IMAGENET1K_V1.meta["num_params"] == 11_689_512


def test_importing_the_zoo_imports_neither_torch_nor_torchvision():
    code = "import sys, edgeres.model.zoo; print(sorted({'torch', 'torchvision'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
