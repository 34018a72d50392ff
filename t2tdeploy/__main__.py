"""`python -m t2tdeploy`: the command line."""

from t2tdeploy.cli.main import main

if __name__ == "__main__":
    main()
