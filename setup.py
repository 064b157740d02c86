"""nbdev's own set-up: everything is read from settings.ini."""
from configparser import ConfigParser

import setuptools

config = ConfigParser(delimiters=["="])
config.read("settings.ini", encoding="utf-8")
cfg = config["DEFAULT"]

setuptools.setup(
    name=cfg["lib_name"],
    version=cfg["version"],
    license="MIT",
    description=cfg["description"],
    keywords=cfg["keywords"],
    author=cfg["author"],
    author_email=cfg["author_email"],
    url=cfg["git_url"],
    packages=setuptools.find_packages(include=["flowers102_study*"]),
    package_data={"flowers102_study": ["profiles/*.yaml", "accelerate/*.yaml", "flowers102.txt",
                                       "taxonomy.txt", "page.css", "demo.css", "renamed.yaml",
                                       "captions.yaml", "lmms_eval/*"]},
    install_requires=cfg["requirements"].split(),
    extras_require={"dev": cfg["dev_requirements"].split()},
    entry_points={"console_scripts": cfg["console_scripts"].split(),
                  "nbdev": ["flowers102_study=flowers102_study._modidx:d"]},
    python_requires=">=" + cfg["min_python"],
    long_description=open("README.md", encoding="utf-8").read(),
    long_description_content_type="text/markdown",
    zip_safe=False,
)
